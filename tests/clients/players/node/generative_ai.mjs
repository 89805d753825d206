// Gemini with `@google/generative-ai`, the library before `@google/genai`.
import { GoogleGenerativeAI, GoogleGenerativeAIError } from '@google/generative-ai'

export const isOwn = (error) => error instanceof GoogleGenerativeAIError

export async function play(url, key, say) {
  const model = new GoogleGenerativeAI(key).getGenerativeModel({ model: 'm' }, { baseUrl: url })
  const { stream } = await model.generateContentStream('count')
  for await (const chunk of stream) say(chunk.candidates)
}
