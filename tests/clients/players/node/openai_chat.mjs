// OpenAI chat completions with `openai`.
import OpenAI from 'openai'

export const isOwn = (error) => error instanceof OpenAI.OpenAIError

export async function play(url, key, say) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key })
  const messages = [{ role: 'user', content: 'count' }]
  for await (const chunk of await client.chat.completions.create({ model: 'm', messages, stream: true })) say(chunk)
}
