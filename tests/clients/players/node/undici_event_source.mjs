// Events with the EventSource of `undici`.
import { EventSource } from 'undici'
import { isOwn, listen } from './event_source_play.mjs'

export { isOwn }

export const play = (url, key, say) => listen(EventSource, url, key, say)
