// What a user of an EventSource does: one listener for messages, one for the name that is known, one for errors.

class Closed extends Error {}

export const isOwn = (error) => error instanceof Closed

export function listen(EventSource, url, key, say) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`${url}?access_token=${key}`)
    const heard = ({ type, data, lastEventId }) => {
      say([type, data, lastEventId])
      if (data === 'done') {
        source.close()
        resolve()
      }
    }
    source.onmessage = heard
    source.addEventListener('update', heard)
    // Some close themselves only after they have said so.
    source.onerror = () => setTimeout(() => source.readyState === 2 && reject(new Closed('closed')))
  })
}
