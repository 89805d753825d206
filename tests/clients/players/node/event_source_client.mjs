// Events with `eventsource-client`, which hands over every event, whatever its name.
import { createEventSource } from 'eventsource-client'

class Refused extends Error {}

export const isOwn = (error) => error instanceof Refused

export function play(url, key, say) {
  return new Promise((resolve, reject) => {
    let attempts = 0
    const source = createEventSource({
      url: `${url}?access_token=${key}`,
      onMessage: ({ event, data, id }) => {
        attempts = 0
        say([event ?? null, data, id ?? null])
        if (data === 'done') {
          source.close()
          resolve()
        }
      },
      // It comes back after any answer: its user gives up.
      onScheduleReconnect() {
        if (++attempts === 3) {
          source.close()
          reject(new Refused('three times in a row'))
        }
      },
    })
  })
}
