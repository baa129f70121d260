/*
 * The embedded servers keep the promises of driver/embedded: quick, really different clusters, killable, freezable,
 * restartable, and nothing is left behind, not even when Node itself is killed.
 */
import { expect } from 'chai'
import { spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type EmbeddedServer, startServers } from '../driver/embedded/embedded.ts'
import { ask, destroyAll, listens, threeServers } from './servers.ts'

const timed = async <T>(what: () => Promise<T>): Promise<[T, number]> => {
  const from = performance.now()
  return [await what(), Math.round(performance.now() - from)]
}
const until = async (what: () => boolean | Promise<boolean>, ms = 8000): Promise<boolean> => {
  for (const end = Date.now() + ms; Date.now() < end; await sleep(20)) if (await what()) return true
  return false
}
/** Processes whose command line names one of these folders. */
const processesOf = (dirs: string[]): string[] =>
  readdirSync('/proc').filter((pid) => {
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      return dirs.some((d) => line.includes(d))
    } catch {
      return false
    }
  })

describe('embedded servers', function () {
  let servers: EmbeddedServer[] = []
  let folder: string | undefined
  before(async function () {
    this.timeout(60_000)
    await destroyAll(await startServers(3)) // the first time on a machine makes the templates
  })
  afterEach(async () => {
    await destroyAll(servers)
    if (folder) rmSync(folder, { recursive: true, force: true })
  })

  it('three start in under a second once the templates exist, as three different clusters', async function () {
    const disk = (await timed(async () => destroyAll(await startServers(3))))[1]
    // Judged on a tmpfs where there is one: ext4 creates files many times slower for minutes after thousands were
    // deleted (by suites like this one), which would make this a test of the disk's recent past.
    const memory = existsSync('/dev/shm') && statfsSync('/dev/shm')
    const before = process.env['TMPDIR']
    if (memory && memory.bavail * memory.bsize > 1e9) {
      folder = process.env['TMPDIR'] = mkdtempSync('/dev/shm/pg-quorum-test-')
      chmodSync(folder, 0o1777) // root's servers run as somebody else
      await destroyAll(await startServers(3)) // the templates
    }
    let ms: number
    try {
      ;[servers, ms] = await timed(() => startServers(3))
    } finally {
      if (before === undefined) delete process.env['TMPDIR']
      else process.env['TMPDIR'] = before
    }
    console.log(`        three servers in ${ms} ms${folder ? ' on tmpfs' : ''}, with destroy ${disk} ms in ${tmpdir()}`)
    expect(ms).below(1000)
    const ids = await Promise.all(
      servers.map((s) => ask(s, 'SELECT system_identifier::text AS id FROM pg_control_system()')),
    )
    expect(new Set(ids.map((rows) => rows[0]?.['id'])).size).equal(3)
    expect((await ask(servers[0]!, 'SHOW server_encoding'))[0]).deep.equal({ server_encoding: 'UTF8' })
  })

  it('keeps a prepared transaction and its port over kill -9 and start', async function () {
    servers = await startServers(1)
    const s = servers[0]!,
      { port } = s
    await ask(s, 'CREATE TABLE t (a int)')
    await ask(s, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one'")
    await s.kill()
    expect(s.pid).equal(undefined)
    expect(await listens(port)).equal(false)
    const [, ms] = await timed(() => s.start())
    console.log(`        started again in ${ms} ms`)
    expect(s.port).equal(port)
    await ask(s, "COMMIT PREPARED 'one'")
    expect(await ask(s, 'SELECT a FROM t')).deep.equal([{ a: 1 }])
  })

  it('is silent while frozen and answers after thaw', async function () {
    servers = await startServers(1)
    const s = servers[0]!
    s.freeze()
    const answer = ask(s, 'SELECT 1 AS one')
    expect(await Promise.race([answer, sleep(300, 'silent')])).equal('silent')
    s.thaw()
    expect(await answer).deep.equal([{ one: 1 }])
  })

  it('stops and goes away at once after a kill, while frozen, and twice', async function () {
    servers = await startServers(2)
    const [killed, frozen] = servers as [EmbeddedServer, EmbeddedServer]
    await killed.kill()
    frozen.freeze()
    const [, ms] = await timed(async () => {
      await killed.stop()
      await frozen.stop()
      await frozen.stop()
    })
    expect(ms).below(2000)
    expect(await listens(frozen.port)).equal(false)
  })

  it('notices a server that died by itself', async function () {
    servers = await startServers(1)
    process.kill(servers[0]!.pid!, 'SIGKILL')
    expect(await until(() => servers[0]!.pid === undefined)).equal(true)
    await servers[0]!.stop()
  })

  it('leaves neither processes nor folders after destroy', async function () {
    servers = await startServers(2)
    const dirs = servers.map((s) => s.dir)
    const pids = servers.flatMap((s) => readFileSync(`/proc/${s.pid}/task/${s.pid}/children`, 'utf8').trim().split(' '))
    expect(pids.length).above(4)
    const segment = readFileSync(`${dirs[0]}/postmaster.pid`, 'utf8').split('\n')[6]!.trim().split(/\s+/)[1]!
    await servers[0]!.kill() // also after this one
    await destroyAll(servers)
    expect(dirs.filter((d) => existsSync(d))).deep.equal([])
    expect(processesOf(dirs)).deep.equal([])
    expect(
      pids.filter((pid) => existsSync(`/proc/${pid}`) && /postgres/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'))),
    ).deep.equal([])
    expect(
      readFileSync('/proc/sysvipc/shm', 'utf8')
        .split('\n')
        .filter((l) => l.trim().split(/\s+/)[1] === segment),
    ).deep.equal([])
  })

  it('says what is wrong when a server cannot start', async function () {
    const error = await startServers(1, { settings: { shared_buffers: 'much' } }).catch((e: unknown) => e as Error)
    expect(String(error)).match(/did not start.*shared_buffers/s)
  })

  for (const state of ['running', 'frozen', 'killed'] as const) {
    it(`leaves nothing when Node is killed with -9 (server ${state})`, async function () {
      const home = new URL('../driver/embedded/embedded.ts', import.meta.url).href
      const script = `const { startServers } = await import('${home}'); const [s] = await startServers(1); const pid = s.pid;
        if ('${state}' === 'frozen') s.freeze(); if ('${state}' === 'killed') await s.kill();
        console.log(JSON.stringify([s.dir, s.port, pid])); setInterval(() => {}, 1000);`
      const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const line = await new Promise<string>((resolve) =>
        child.stdout.once('data', (d: Buffer) => resolve(d.toString())),
      )
      const [dir, port] = JSON.parse(line) as [string, number, number]
      expect(existsSync(dir)).equal(true)
      child.kill('SIGKILL')
      expect(await until(async () => !existsSync(dir) && !processesOf([dir]).length && !(await listens(port)))).equal(
        true,
      )
    })
  }

  it('leaves nothing when Node is killed with -9 while the next data directory is copied', async () => {
    const temporary = mkdtempSync(join(tmpdir(), 'pg-quorum-ahead-'))
    chmodSync(temporary, 0o777) // for the servers' account
    const folders = (): string[] => readdirSync(temporary).filter((name) => name.startsWith('pg-quorum-data-'))
    try {
      const home = new URL('../driver/embedded/embedded.ts', import.meta.url).href
      const script = `const { startServers } = await import('${home}'); await startServers(1, { ahead: true });
        console.log('started'); setInterval(() => {}, 1000);`
      const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: { ...process.env, TMPDIR: temporary },
      })
      await new Promise((resolve) => child.stdout.once('data', resolve))
      expect(folders()).to.have.length(2)
      child.kill('SIGKILL')
      expect(await until(() => folders().length === 0)).equal(true)
    } finally {
      rmSync(temporary, { recursive: true, force: true })
    }
  })

  it('lets Node end by itself, and is gone then', async function () {
    const home = new URL('../driver/embedded/embedded.ts', import.meta.url).href
    const script = `const { startServers } = await import('${home}'); console.log((await startServers(1))[0].dir)`
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let dir = ''
    child.stdout.on('data', (d: Buffer) => {
      dir += d.toString()
    })
    expect(await new Promise((resolve) => child.once('close', resolve))).equal(0)
    expect(await until(() => !existsSync(dir.trim()) && !processesOf([dir.trim()]).length)).equal(true)
  })

  it('starts the major versions that are installed, through the helper of the tests', async function () {
    this.timeout(90_000)
    for (const major of [15, 16, 17, 18] as const) {
      const three = await threeServers({ major })
      try {
        expect(
          (Number((await ask(three[2]!, 'SHOW server_version_num'))[0]?.['server_version_num']) / 10000) | 0,
        ).equal(major)
      } finally {
        await destroyAll(three)
      }
    }
  })
})
