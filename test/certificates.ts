/** Certificate authorities and servers' certificates, made by openssl when a test needs them. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Authority {
  readonly ca: string
  readonly file: string
  issue(names: string): { cert: string; key: string }
}

export function authorities(...names: string[]): { made: Authority[]; remove(): void } {
  const dir = mkdtempSync(join(tmpdir(), 'pg-quorum-certificates-'))
  const openssl = (...args: string[]): void => void execFileSync('openssl', args, { cwd: dir, stdio: 'pipe' })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const read = (file: string): string => readFileSync(join(dir, file), 'utf8')
  const made = names.map((name): Authority => {
    openssl(
      'req',
      '-x509',
      ...key,
      '-keyout',
      `${name}.key`,
      '-out',
      `${name}.crt`,
      '-days',
      '2',
      '-subj',
      `/CN=${name}`,
    )
    return {
      ca: read(`${name}.crt`),
      file: join(dir, `${name}.crt`),
      issue(subjects) {
        openssl('req', ...key, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=server')
        writeFileSync(join(dir, 'names'), `subjectAltName=${subjects}`)
        openssl(
          'x509',
          '-req',
          '-in',
          'server.csr',
          '-CA',
          `${name}.crt`,
          '-CAkey',
          `${name}.key`,
          '-CAcreateserial',
          '-days',
          '2',
          '-extfile',
          'names',
          '-out',
          'server.crt',
        )
        return { cert: read('server.crt'), key: read('server.key') }
      },
    }
  })
  return { made, remove: () => rmSync(dir, { recursive: true, force: true }) }
}
