// Anthropic messages with `@anthropic-ai/sdk`.
import Anthropic from '@anthropic-ai/sdk'

export const isOwn = (error) => error instanceof Anthropic.AnthropicError

export async function play(url, key, say) {
  const client = new Anthropic({ baseURL: url, apiKey: key })
  const messages = [{ role: 'user', content: 'count' }]
  const stream = await client.messages.create({ model: 'm', max_tokens: 9, messages, stream: true })
  for await (const event of stream) say(event)
}
