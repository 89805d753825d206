// Anthropic messages with `ai` and `@ai-sdk/anthropic`.
import { createAnthropic } from '@ai-sdk/anthropic'
import { isOwn, playModel } from './ai_play.mjs'

export { isOwn }

export async function play(url, key, say) {
  const provider = createAnthropic({ baseURL: `${url}/v1`, apiKey: key })
  await playModel(provider('m'), say)
}
