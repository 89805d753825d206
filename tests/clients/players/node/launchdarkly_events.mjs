// Events with `launchdarkly-eventsource`.
import library from 'launchdarkly-eventsource'
import { isOwn, listen } from './event_source_play.mjs'

export { isOwn }

export const play = (url, key, say) => listen(library.EventSource ?? library, url, key, say)
