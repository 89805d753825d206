// Mistral chat completions with `@mistralai/mistralai`.
import { Mistral } from '@mistralai/mistralai'
import * as errors from '@mistralai/mistralai/models/errors'

export const isOwn = (error) =>
  ['MistralError', 'SDKError'].some((name) => errors[name] && error instanceof errors[name])

export async function play(url, key, say) {
  const client = new Mistral({ apiKey: key, serverURL: url })
  const stream = await client.chat.stream({ model: 'm', messages: [{ role: 'user', content: 'count' }] })
  for await (const event of stream) say(event.data)
}
