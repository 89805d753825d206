// MCP over streamable HTTP with `@modelcontextprotocol/sdk`.
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { isOwn, session } from './mcp_session.mjs'

export { isOwn }

export async function play(url, key, say) {
  await session(new StreamableHTTPClientTransport(new URL(`${url}/mcp`)), say)
}
