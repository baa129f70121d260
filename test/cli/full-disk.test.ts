/**
 * A disk that becomes full in the middle: the others go on; when there is room again, the server is started and
 * catches up. Linux and root only.
 */
import { expect } from 'chai'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Pool } from '../../driver/index.ts'
import { startServers } from '../../driver/embedded/embedded.ts'
import { init } from '../../driver/schema/install.ts'
import { bank, settled, until } from '../cluster.ts'
import { cli } from '../command.ts'
import { destroyAll, type TestServer } from '../servers.ts'

describe('a full disk', () => {
  const small = mkdtempSync(join(tmpdir(), 'pg-quorum-small-'))
  let servers: TestServer[] = []
  before(async function () {
    if (process.platform !== 'linux' || process.getuid?.() !== 0) return this.skip()
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=120m,mode=777', 'tmpfs', small], { stdio: 'ignore' })
    } catch {
      return this.skip()
    }
    const usual = process.env['TMPDIR']
    servers = await startServers(2)
    process.env['TMPDIR'] = small
    try {
      servers.push(...(await startServers(1)))
    } finally {
      if (usual === undefined) delete process.env['TMPDIR']
      else process.env['TMPDIR'] = usual
    }
  })
  after(async () => {
    await destroyAll(servers)
    try {
      execFileSync('umount', [small], { stdio: 'ignore' })
    } catch {
      /* it was never mounted */
    }
    rmdirSync(small)
  })

  it('writes go on, status names it, and with room again it catches up', async () => {
    const urls = servers.map((s) => s.url)
    await init(
      urls.map((connectionString) => ({ connectionString })),
      urls,
    )
    const pool = new Pool({ replicas: urls, max: 4 })
    try {
      await bank(pool, 100)
      await settled(servers)
      const filler = join(small, 'filler')
      try {
        for (let i = 0; ; i++) writeFileSync(filler, Buffer.alloc(65_536), { flag: 'a' })
      } catch {
        /* full */
      }
      let longest_ms = 0
      let n = 0
      const full = async (): Promise<boolean> =>
        (await cli(['status', '--json'], urls).then(
          (r) => (JSON.parse(r.out) as { replicas: { state: string }[] }).replicas[2]?.state,
        )) !== 'current'
      const write = async (): Promise<void> => {
        for (let i = 0; i < 300; i++) {
          const from = performance.now()
          await pool.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [(n++ % 100) + 1])
          longest_ms = Math.max(longest_ms, performance.now() - from)
        }
      }
      await pool.query('CREATE TABLE bulk (id int PRIMARY KEY, v text)')
      for (let i = 0; i < 10; i++)
        await pool.query(
          `INSERT INTO bulk SELECT g, repeat('x', 400) FROM generate_series(${i * 5000}, ${i * 5000 + 4999}) g`,
        )
      await write()
      await until('status sees it', 20_000, full)
      console.log(
        `      longest write ${Math.round(longest_ms)} ms; ${(await cli(['status'], urls)).out
          .split('\n')
          .filter((l) => /member 3|unreachable/.test(l))
          .join()}`,
      )
      rmSync(filler)
      await servers[2]?.stop().catch(() => undefined)
      await servers[2]?.start()
      await settled(servers, 60_000)
      expect((await cli(['verify'], urls)).code).equal(0)
    } finally {
      await pool.end()
    }
  })
})
