// Events with `@microsoft/fetch-event-source`, which is written for a browser.
globalThis.window ??= globalThis
globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} }
const { fetchEventSource } = await import('@microsoft/fetch-event-source')

class Fatal extends Error {}

export const isOwn = (error) => error instanceof Fatal || error instanceof TypeError

// By default the library opens the stream again after any error of its user; this user stops after the third.
export function listen(url, key, say, method, parse) {
  let opened = 0
  return fetchEventSource(`${url}?access_token=${key}`, {
    method,
    ...(method === 'POST' ? { body: '{"stream":true}', headers: { 'Content-Type': 'application/json' } } : {}),
    openWhenHidden: true,
    async onopen(answer) {
      if (!answer.ok) throw new Fatal(`status ${answer.status}`)
      if (++opened > 1) say(`opened ${opened} times`)
    },
    onmessage({ event, data, id }) {
      say([event, parse(data), id])
    },
    onerror(error) {
      if (error instanceof Fatal || opened > 2 || error instanceof TypeError) throw error
    },
  })
}
