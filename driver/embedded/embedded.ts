/*
 * Real PostgreSQL servers on 127.0.0.1 for tests, demos and trying things out: three are up in a fraction of a
 * second. Promises: n servers are n different clusters (own system identifier, own data directory, durable
 * settings); a server can be stopped, killed with -9, frozen and started again on the same port with its data;
 * stop() never hangs; and nothing outlives its use: neither processes nor folders are left after destroy(), nor
 * after this process ends in any way, kill -9 included. They trust every local connection: not for data that
 * matters.
 */
import { execFileSync, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { chownSync, closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { account, asServer, binaries, sh, template } from './binaries.ts'
import type { Binaries, Major } from './binaries.ts'

export interface ServerOptions {
  /** PostgreSQL's major version; default: the environment's PG_MAJOR, else 18. */
  major?: Major
  /** Settings on top of (or instead of) the defaults, as in postgresql.conf. */
  settings?: Record<string, string | number>
  /**
   * Copies the next servers' data directories while these are in use, for the next call that asks for it too: copying
   * takes a second, starting a server a twentieth of that. Default false.
   */
  ahead?: boolean
}

/*
 * One per data directory; it holds our stdin pipe and acts when that closes, by destroy() or by the end of this
 * process. A shell, as it must outlive us, and not the postmaster's parent, as the postmaster comes and goes. It
 * wakes frozen servers (they would not hear the signal), and asks whether the pid in postmaster.pid is still this
 * folder's server: after a kill -9 that file is stale and the pid may be somebody else's. A killed server also
 * leaves a System V segment (its id is in line 7).
 */
const WATCHER = `d=$1; cat >/dev/null
children() { cat /proc/$p/task/$p/children 2>/dev/null || pgrep -P $p; }
ours() { case "$(tr '\\0' ' ' 2>/dev/null </proc/$p/cmdline || ps -o command= -p $p)" in *"$d"*) ;; *) false;; esac; }
{ read -r p; read -r _; read -r _; read -r _; read -r _; read -r _; read -r _ shm; } <"$d/postmaster.pid"
if [ -n "$p" ]; then
  i=0; ours && kill -INT $p && kill -CONT $p $(children)
  while ours && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done
  ours && kill -9 $p $(children)
  [ -f "$d/postmaster.pid" ] && [ -n "$shm" ] && ipcrm -m $shm
fi
i=0; until rm -rf "$d" || [ $i -ge 10 ]; do sleep 0.3; i=$((i+1)); done`

const DEFAULTS = {
  max_prepared_transactions: 64,
  max_connections: 300,
  shared_buffers: '32MB',
  fsync: 'on',
  full_page_writes: 'on',
  wal_level: 'replica',
  lc_messages: 'C',
  logging_collector: 'off',
  // Files in the data directory instead of /dev/shm: small in Docker, and a killed server would leave them there.
  dynamic_shared_memory_type: 'mmap',
  ...(process.platform === 'linux' ? { recovery_init_sync_method: 'syncfs' } : {}),
} as const

export class EmbeddedServer {
  readonly dir: string
  /** On top of the defaults, from the next start on. */
  settings: Readonly<Record<string, string | number>> = {}
  readonly #bin: Binaries
  readonly #watcher: ChildProcess
  #port = 0
  #child: ChildProcess | undefined
  #exited: Promise<void> = Promise.resolve()

  constructor(bin: Binaries) {
    this.#bin = bin
    this.dir = mkdtempSync(join(tmpdir(), 'pg-quorum-data-'))
    if (account.uid !== undefined && account.gid !== undefined) chownSync(this.dir, account.uid, account.gid)
    // Detached, here and below: Ctrl-C in the terminal is for this process to decide about.
    this.#watcher = spawn('sh', ['-c', WATCHER, 'sh', this.dir], {
      ...asServer,
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
    })
    this.#watcher.on('error', () => undefined)
    this.#watcher.stdin?.on('error', () => undefined)
    this.#watcher.unref() // an idle server must not keep this process alive
    ;(this.#watcher.stdin as unknown as { unref?: () => void } | null)?.unref?.()
  }

  get port(): number {
    return this.#port
  }
  get url(): string {
    return `postgres://postgres@127.0.0.1:${this.#port}/postgres`
  }
  /** The postmaster's process id while it runs. */
  get pid(): number | undefined {
    return this.#child?.pid
  }
  /** What the server has logged so far. */
  get log(): string {
    return readFileSync(join(this.dir, 'server.log'), 'utf8')
  }

  /** Starts it (again, on the same port with the same data) and waits until it accepts connections. */
  async start(): Promise<void> {
    const first = this.#port === 0
    for (let attempt = 0; !this.#child; attempt++) {
      if (first) this.#port = await freePort()
      const log = openSync(join(this.dir, 'server.log'), 'a')
      const from = statSync(join(this.dir, 'server.log')).size
      const settings = {
        ...DEFAULTS,
        ...(this.#bin.major >= 18 ? { io_method: 'sync' } : {}),
        ...this.settings,
        listen_addresses: '127.0.0.1',
        unix_socket_directories: '',
        port: this.#port,
      }
      const args = ['-D', this.dir, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])]
      // Its log is a file, not a pipe: a busy event loop here must not stop a server that complains a lot.
      const child = spawn(join(this.#bin.native, 'bin', 'postgres'), args, {
        ...asServer,
        detached: true,
        stdio: ['ignore', log, log],
      })
      closeSync(log)
      this.#child = child
      this.#exited = new Promise((resolve) => {
        const gone = (): void => {
          if (this.#child === child) this.#child = undefined
          resolve()
        }
        child.once('exit', gone).once('error', gone)
      })
      child.unref()
      const deadline = Date.now() + 30_000
      while (this.#child === child && !this.#ready(child.pid)) {
        if (Date.now() > deadline) await this.kill()
        else await sleep(5)
      }
      if (this.#child === child) return
      const said = Buffer.from(this.log).subarray(from).toString().trim()
      // Somebody took the port: the first time another will do, later the address is known and worth waiting for.
      if (attempt >= 50 || !/could not bind|still in use/.test(said))
        throw new Error(`PostgreSQL ${this.#bin.version} did not start: ${said.slice(-2000)}`)
      if (!first) await sleep(100)
    }
  }

  /** postmaster.pid says it in line 8, whatever the log settings; the pid tells it from a killed predecessor's file. */
  #ready(pid: number | undefined): boolean {
    try {
      const lines = readFileSync(join(this.dir, 'postmaster.pid'), 'utf8').split('\n')
      return Number(lines[0]) === pid && lines[7]?.trim() === 'ready'
    } catch {
      return false
    }
  }

  /** Fast shutdown; after 5 seconds kill(). At once when it is not running. */
  async stop(): Promise<void> {
    const child = this.#child
    if (!child?.pid) return
    child.ref()
    signal('SIGINT', child.pid)
    this.thaw()
    const late = new AbortController()
    await Promise.race([this.#exited, sleep(5000, undefined, { signal: late.signal }).catch(() => undefined)])
    late.abort()
    await this.kill()
  }

  /** kill -9 of the postmaster and all its children, like a power cut for processes; returns when they are gone. */
  async kill(): Promise<void> {
    const child = this.#child
    if (!child?.pid) return
    child.ref()
    signal('SIGSTOP', child.pid) // so that it starts no more children while we list them
    const all = [child.pid, ...children(child.pid)]
    signal('SIGKILL', ...all)
    await this.#exited
    // The children belong to init now; a restart would meet their shared memory.
    for (let i = 0; i < 1000 && all.some(alive); i++) await sleep(2)
  }

  /**
   * Stops every process of it in its tracks; connections stay open and silent, as with a hanging disk or a lost
   * network.
   */
  freeze(): void {
    if (this.pid) {
      signal('SIGSTOP', this.pid)
      signal('SIGSTOP', ...children(this.pid))
    }
  }
  thaw(): void {
    if (this.pid) signal('SIGCONT', ...children(this.pid), this.pid)
  }

  /** stop(), and removes the data directory. */
  async destroy(): Promise<void> {
    await this.stop()
    const watcher = this.#watcher
    if (watcher.pid && watcher.exitCode === null && watcher.signalCode === null) {
      watcher.ref()
      const done = new Promise((resolve) => watcher.once('exit', resolve))
      watcher.stdin?.end()
      await done
    }
    rmSync(this.dir, { recursive: true, force: true })
  }
}

/**
 * Starts n servers in parallel. Server i is always made from template i: n different system identifiers, no initdb
 * but once.
 */
export async function startServers(n: number, options: ServerOptions = {}): Promise<EmbeddedServer[]> {
  const major = options.major ?? Number(process.env['PG_MAJOR'] || 18)
  if (major !== 15 && major !== 16 && major !== 17 && major !== 18)
    throw new Error(`PostgreSQL ${major} is not one of 15, 16, 17, 18`)
  const bin = binaries(major)
  const servers: EmbeddedServer[] = []
  const started = await Promise.allSettled(
    Array.from({ length: n }, async (_, i) => {
      const server = (servers[i] = await laidOut(bin, i, options.ahead ?? false))
      server.settings = options.settings ?? {}
      await server.start()
    }),
  )
  const failed = started.find((s) => s.status === 'rejected')
  if (!failed) return servers
  await Promise.all(servers.map((s) => s.destroy()))
  throw failed.reason
}

/** By version and index: copied ahead, each for whoever comes first; undefined, the copying failed. */
const spares = new Map<string, Promise<EmbeddedServer | undefined>>()

/** A server with its data, not started. */
async function laidOut(bin: Binaries, i: number, ahead: boolean): Promise<EmbeddedServer> {
  const copied = async (how: string): Promise<EmbeddedServer> => {
    const from = await template(bin, i)
    const server = new EmbeddedServer(bin)
    try {
      // cp as the servers' account: fs.cp as root would make the files root's, hard links would be written through.
      await sh(`${how} cp -R "$1/." "$2"`, from, server.dir)
      return server
    } catch (error) {
      await server.destroy()
      throw error
    }
  }
  if (!ahead) return copied('')
  const key = `${bin.major}/${i}`
  const spare = spares.get(key)
  spares.delete(key) // nobody else shall have it
  const server = (await spare) ?? (await copied(''))
  if (!spares.has(key))
    spares.set(
      key,
      copied('nice').catch(() => undefined),
    )
  return server
}

const taken = new Set<number>()

/**
 * Below the ports that systems hand out to clients (32768 up, 49152 up): a server that is down must find its port
 * free when it returns, and a client that keeps trying a dead port of that range can end up connected to itself.
 */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 15000 + Math.floor(Math.random() * 17000)
    if (taken.has(port)) continue
    taken.add(port)
    const free = await new Promise<boolean>((resolve) => {
      const probe = createServer().once('error', () => resolve(false))
      probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
    })
    if (free) return port
  }
}

function signal(name: NodeJS.Signals, ...pids: number[]): void {
  for (const pid of pids)
    try {
      process.kill(pid, name)
    } catch {
      /* it ended meanwhile */
    }
}

/**
 * Backends are in sessions of their own, so a process group does not reach them; slim images have no ps, macOS no
 * /proc.
 */
function children(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
  } catch {
    /* not Linux, or gone */
  }
  if (process.platform === 'linux') return []
  return execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' })
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter(([, parent]) => parent === pid)
    .map(([id]) => id ?? 0)
}

/** A zombie is gone: where no init reaps (containers) it would stay for ever. */
function alive(pid: number): boolean {
  try {
    process.kill(pid, 0)
  } catch {
    return false
  }
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return process.platform !== 'linux'
  }
}
