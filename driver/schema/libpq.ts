/**
 * How a pg client reaches its server, as environment for a program of PostgreSQL's own: never with less
 * verification than the client has.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ConnectionOptions } from 'node:tls'
import type pg from 'pg'

type Pem = ConnectionOptions['ca'] | ConnectionOptions['key']

export async function asLibpq<T>(
  { host, port, user, database, password, ssl }: pg.Client,
  work: (env: NodeJS.ProcessEnv) => Promise<T>,
): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), 'pg-quorum-tls-')) // 0700
  /** libpq reads them from files only. */
  const file = (name: string, pem: Pem): Record<string, string> => {
    if (pem === undefined) return {}
    const path = join(dir, name)
    writeFileSync(
      path,
      [pem]
        .flat()
        .map((p) => (typeof p === 'object' && 'pem' in p ? p.pem : p).toString())
        .join('\n'),
      { mode: 0o600 },
    )
    return { [name]: path }
  }
  const tls = (): Record<string, string> => {
    if (!ssl) return { PGSSLMODE: 'disable' }
    const { ca, cert, key, rejectUnauthorized, checkServerIdentity } =
      (ssl as unknown) === true ? {} : (ssl as unknown as ConnectionOptions)
    return {
      PGSSLMODE: rejectUnauthorized === false ? 'require' : checkServerIdentity ? 'verify-ca' : 'verify-full',
      ...(rejectUnauthorized === false
        ? {}
        : ca === undefined
          ? { PGSSLROOTCERT: 'system' }
          : file('PGSSLROOTCERT', ca)),
      ...file('PGSSLCERT', cert),
      ...file('PGSSLKEY', key),
    }
  }
  try {
    return await work({
      ...process.env,
      PGHOST: host,
      PGPORT: String(port),
      PGUSER: user ?? '',
      PGDATABASE: database ?? '',
      ...(typeof password === 'string' ? { PGPASSWORD: password } : {}),
      ...tls(),
    })
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}
