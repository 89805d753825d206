// One stream of text with `ai`: its parts, and its error, which it hands to a callback or puts among the parts.
import { streamText } from 'ai'

class Reported extends Error {}

// An error has one of the names of the library, or is the object that the stream has told.
export const isOwn = (error) => error instanceof Reported || /^AI_|^StreamProviderError$/.test(error?.name)

export async function playModel(model, say) {
  const result = streamText({ model, prompt: 'count', onError: () => {} })
  for await (const part of result.fullStream) {
    if (part.type === 'error') {
      const error = part.error
      if (error instanceof Error) throw error
      throw new Reported(typeof error === 'string' ? error : error?.message ?? JSON.stringify(error))
    }
    if (part.type === 'text-delta') say(part.textDelta ?? part.text ?? part.delta)
    if (part.type === 'finish') say(`finish ${part.finishReason}`)
  }
}
