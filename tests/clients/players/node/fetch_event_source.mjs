// Events with `@microsoft/fetch-event-source` by GET.
import { isOwn, listen } from './fetch_event_source_play.mjs'

export { isOwn }

export const play = (url, key, say) => listen(url, key, say, 'GET', String)
