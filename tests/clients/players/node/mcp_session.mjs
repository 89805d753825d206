// One session of `@modelcontextprotocol/sdk`: it begins, calls a tool, hears its progress and its result.
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { SseError } from '@modelcontextprotocol/sdk/client/sse.js'
import { StreamableHTTPError } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { LoggingMessageNotificationSchema, McpError } from '@modelcontextprotocol/sdk/types.js'

export const isOwn = (error) =>
  [McpError, SseError, StreamableHTTPError].some((kind) => error instanceof kind) ||
  /UnauthorizedError/.test(error?.constructor?.name)

export async function session(transport, say) {
  const client = new Client({ name: 'player', version: '1' })
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => say(`log ${params.data}`))
  await client.connect(transport)
  say('initialized')
  const onprogress = ({ progress, message }) => say(`progress ${progress} ${message}`)
  const result = await client.callTool({ name: 'count', arguments: {} }, undefined, { onprogress })
  say(`result ${result.content[0].text}`)
  await client.close()
}
