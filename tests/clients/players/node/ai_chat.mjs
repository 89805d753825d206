// OpenAI chat completions with `ai` and `@ai-sdk/openai`.
import { createOpenAI } from '@ai-sdk/openai'
import { isOwn, playModel } from './ai_play.mjs'

export { isOwn }

export async function play(url, key, say) {
  const provider = createOpenAI({ baseURL: `${url}/v1`, apiKey: key })
  await playModel(provider.chat('m'), say)
}
