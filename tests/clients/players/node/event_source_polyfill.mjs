// Events with `event-source-polyfill`.
import polyfill from 'event-source-polyfill'
import { isOwn, listen } from './event_source_play.mjs'

export { isOwn }

export const play = (url, key, say) => listen(polyfill.EventSourcePolyfill, url, key, say)
