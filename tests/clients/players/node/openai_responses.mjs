// OpenAI responses with `openai`.
import OpenAI from 'openai'

export const isOwn = (error) => error instanceof OpenAI.OpenAIError

export async function play(url, key, say) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key })
  for await (const event of await client.responses.create({ model: 'm', input: 'count', stream: true })) say(event)
}
