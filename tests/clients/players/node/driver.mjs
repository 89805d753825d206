// Plays several streams at the same time with one library, and prints what its user sees as JSON lines:
// the same as ../python/driver.py.
//
//     node driver.mjs PLAYER NAME=URL...

import { AsyncLocalStorage } from 'node:async_hooks'
import { writeSync } from 'node:fs'

const seconds = Number(process.env.PLAY_SECONDS ?? 20)
const current = new AsyncLocalStorage()
const say = (name, kind, value = null) => writeSync(1, JSON.stringify([name, kind, value]) + '\n')

for (const method of ['log', 'info', 'warn', 'error', 'debug']) {
  console[method] = (...words) => say(current.getStore() ?? '', 'warning', words.join(' '))
}
process.on('warning', (warning) => say(current.getStore() ?? '', 'warning', String(warning)))

function failed(name, error, own) {
  const value = { kind: error?.constructor?.name ?? typeof error, text: String(error?.message ?? error), own }
  say(name, 'error', value)
}
process.on('unhandledRejection', (error) => failed(current.getStore() ?? '', error, false))
process.on('uncaughtException', (error) => failed(current.getStore() ?? '', error, false))

const [player, ...given] = process.argv.slice(2)
const { isOwn, play } = await import(`./${player}.mjs`)
setTimeout(() => process.exit(0), seconds * 1000)
await Promise.all(given.map((text) => {
  const at = text.indexOf('=')
  const [name, url] = [text.slice(0, at), text.slice(at + 1)]
  return current.run(name, async () => {
    try {
      await play(url, `key-${name}`, (event) => say(name, 'event', event))
      say(name, 'end')
    } catch (error) {
      failed(name, error, isOwn(error))
    }
  })
}))
process.exit(0)
