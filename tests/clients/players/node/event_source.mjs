// Events with `eventsource`.
import * as library from 'eventsource'
import { isOwn, listen } from './event_source_play.mjs'

export { isOwn }

export const play = (url, key, say) => listen(library.EventSource ?? library.default, url, key, say)
