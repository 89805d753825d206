// Events with `event-source-plus` in its mode for streams that end; it hands over every event, whatever its name.
import { EventSourcePlus } from 'event-source-plus'

class Failed extends Error {}

export const isOwn = (error) => error instanceof Failed

export function play(url, key, say) {
  return new Promise((resolve, reject) => {
    const source = new EventSourcePlus(`${url}?access_token=${key}`, { retryStrategy: 'on-error' })
    const controller = source.listen({
      onMessage: ({ event, data, id }) => say([event ?? null, data, id ?? null]),
      onResponseError({ error }) {
        reject(new Failed(String(error?.message ?? error)))
        controller.abort() // it would try again for ever
      },
    })
    controller.onAbort(({ type, reason }) => {
      if (type === 'error') reject(new Failed(reason))
      else resolve()
    })
  })
}
