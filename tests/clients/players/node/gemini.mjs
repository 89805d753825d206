// Gemini with `@google/genai`.
import * as genai from '@google/genai'

// Before 1.5 it had no class of its own that one could import: its users tell its errors by their names.
export const isOwn = (error) =>
  genai.ApiError ? error instanceof genai.ApiError : /^(Client|Server)Error$/.test(error?.constructor?.name)

export async function play(url, key, say) {
  const client = new genai.GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: url } })
  const stream = await client.models.generateContentStream({ model: 'm', contents: 'count' })
  for await (const chunk of stream) say(chunk.candidates)
}
