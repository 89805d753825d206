// Events with `fetch` and `eventsource-parser`.
import * as streams from 'eventsource-parser/stream'

class Refused extends Error {}

export const isOwn = (error) => error instanceof Refused || error instanceof TypeError // which is what fetch throws

export async function play(url, key, say) {
  const answer = await fetch(`${url}?access_token=${key}`, { headers: { Accept: 'text/event-stream' } })
  if (!answer.ok) throw new Refused(`status ${answer.status}`)
  const text = answer.body.pipeThrough(new TextDecoderStream())
  const events = text.pipeThrough(new streams.EventSourceParserStream())
  for await (const { event, data, id } of events) say([event ?? null, data, id ?? null])
}
