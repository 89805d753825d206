// MCP over its old transport, HTTP with SSE, with `@modelcontextprotocol/sdk`.
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js'
import { isOwn, session } from './mcp_session.mjs'

export { isOwn }

export async function play(url, key, say) {
  await session(new SSEClientTransport(new URL(`${url}/sse`)), say)
}
