/** Where a server is, and what the driver adds to how it is reached. */
import pg from 'pg'
import { sentenceOf } from '../errors.ts'

/**
 * How the server notices that a client's machine is gone: otherwise what it held stays locked for two hours,
 * Linux's default keepalive. A client that only stands still is noticed by none of these.
 */
export function watched(config: pg.ClientConfig): pg.ClientConfig {
  const { url, options } = withoutOptions(config.connectionString)
  const theirs = options ?? config.options ?? process.env['PGOPTIONS'] ?? ''
  return {
    ...config,
    ...(url === undefined ? {} : { connectionString: url }),
    options:
      '-c tcp_keepalives_idle=3 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3 ' +
      `-c tcp_user_timeout=5000 -c client_connection_check_interval=1000 ${theirs}`.trim(),
  }
}

/** pg lets the url's parameters win over the configuration's; these of ours must not be lost to them. */
function withoutOptions(url: string | undefined): { url?: string; options?: string } {
  const [, value] = /[?&]options=([^&#]*)/.exec(url ?? '') ?? []
  if (url === undefined || value === undefined) return url === undefined ? {} : { url }
  return {
    url: url.replace(/([?&])options=[^&#]*&?/, '$1').replace(/[?&]$/, ''),
    options: decodeURIComponent(value.replaceAll('+', ' ')),
  }
}

/** Host and port, never the password: this goes into messages. */
export function nameOf(config: pg.ClientConfig): string {
  try {
    const client = new pg.Client(config)
    return `${client.host}:${client.port}/${client.database ?? ''}`
  } catch (error) {
    return sentenceOf(error)
  }
}
