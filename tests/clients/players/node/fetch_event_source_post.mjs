// Events with `@microsoft/fetch-event-source` by POST, as pages of chats use it.
import { isOwn, listen } from './fetch_event_source_play.mjs'

export { isOwn }

function word(data) {
  if (data === '') throw new SyntaxError('empty data') // as JSON.parse does
  return data
}

export const play = (url, key, say) => listen(url, key, say, 'POST', word)
