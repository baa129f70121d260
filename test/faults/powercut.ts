/**
 * Power cuts (`npm run powercut`): three servers, each on a disk whose power can be cut (disk.ts), writes going on.
 * One server loses power, then all three at the same moment. Whatever was acknowledged must be there on all, and
 * all equal. Control: the same with fsync off must lose what was acknowledged.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Pool, QuorumError } from '../../driver/index.ts'
import { binaries, sh, template } from '../../driver/embedded/binaries.ts'
import { EmbeddedServer } from '../../driver/embedded/embedded.ts'
import { init } from '../../driver/schema/install.ts'
import { settled, until } from '../cluster.ts'
import { ask } from '../servers.ts'
import { Disks, impossible, onDisk, type Disk } from './disk.ts'

const { values } = parseArgs({ options: { runs: { type: 'string', default: '5' } } })
const runs = Number(values.runs)
const why = impossible()
if (why !== undefined) {
  console.log(`skipped: ${why}`)
  process.exit(0)
}

interface Cut {
  what: string
  ok: boolean
  acknowledged: number
  unknown: number
  lost: number
  refusedButThere: number
  marks: string
  copies_again: number
  recovered_ms?: number
  trouble?: string
}

class Machine {
  readonly disks = new Disks()
  readonly disk: Disk[] = []
  readonly servers: EmbeddedServer[] = []
  pool!: Pool
  fsync = 'on'

  async start(): Promise<void> {
    const major = (Number(process.env['PG_MAJOR']) || 18) as 15 | 16 | 17 | 18
    const bin = binaries(major)
    for (let i = 0; i < 3; i++) {
      const disk = (this.disk[i] = this.disks.disk(i, 256))
      const from = await template(bin, i)
      // Read anew at each start: init refuses a cluster without fsync, so the control switches it off only afterwards.
      const fsync = { toString: () => this.fsync } as unknown as string
      const server = (this.servers[i] = onDisk(disk, () => new EmbeddedServer(bin)))
      server.settings = { fsync, max_wal_size: '64MB' }
      await sh('cp -R "$1/." "$2"', from, server.dir)
      await server.start()
    }
    const urls = this.servers.map((s) => s.url)
    await init(
      urls.map((connectionString) => ({ connectionString })),
      urls,
    )
    this.pool = new Pool({ replicas: urls, max: 6 })
    await this.pool.query('CREATE TABLE entries (id int PRIMARY KEY, filling text)')
    for (const d of this.disk) d.sync()
  }

  async destroy(): Promise<void> {
    await this.pool.end()
    await Promise.all(this.servers.map((s) => s.destroy()))
    this.disks.remove()
  }
}

let next = 0
/** What the application was told about each row that it wanted. */
class Writers {
  readonly acknowledged = new Set<number>()
  readonly refused = new Set<number>()
  readonly unknown = new Set<number>()
  #on = true
  readonly #loops: Promise<void>[]

  constructor(pool: Pool) {
    this.#loops = [1, 2, 3, 4, 5, 6].map(async () => {
      while (this.#on) {
        const id = ++next
        const [set] = await pool
          .transaction({ locks: [`entries/${id}`], retries: 0 }, (tx) =>
            tx.query("INSERT INTO entries VALUES ($1, repeat('x', 200))", [id]),
          )
          .then(
            () => [this.acknowledged],
            (e: unknown) => [e instanceof QuorumError && e.outcome === 'unknown' ? this.unknown : this.refused],
          )
        set!.add(id)
      }
    })
  }

  async stop(): Promise<void> {
    this.#on = false
    await Promise.all(this.#loops)
  }
}

async function cut(m: Machine, who: number[], what: string): Promise<Cut> {
  const writers = new Writers(m.pool)
  await sleep(800 + Math.random() * 1500)
  for (const i of who) m.disk[i]!.mark()
  for (const i of who) m.servers[i]!.freeze()
  const result: Cut = {
    what,
    ok: false,
    acknowledged: 0,
    unknown: 0,
    lost: 0,
    refusedButThere: 0,
    marks: '',
    copies_again: 0,
  }
  for (const i of who) result.copies_again += m.disk[i]!.snapshot()
  // With everybody gone nothing is acknowledged any more; with one gone the others go on.
  const all = who.length === m.servers.length
  if (!all) await sleep(500)
  await Promise.all(who.map((i) => m.servers[i]!.kill()))
  if (all) await writers.stop()
  for (const i of who) m.disk[i]!.restore()
  result.marks = [...new Set(who.map((i) => m.disk[i]!.marks()))].join(', ')
  const from = performance.now()
  try {
    await Promise.all(who.map((i) => m.servers[i]!.start()))
    if (!all) await sleep(300)
    await writers.stop()
    result.acknowledged = writers.acknowledged.size
    result.unknown = writers.unknown.size
    await until('the cluster writes again', 10_000, async () =>
      Boolean(await m.pool.query('INSERT INTO entries VALUES ($1)', [-++next])),
    )
    await settled(m.servers, 10_000)
    result.recovered_ms = Math.round(performance.now() - from)
  } catch (error) {
    result.trouble = (error as Error).message.slice(0, 200)
  }
  result.acknowledged = writers.acknowledged.size
  for (const s of m.servers) {
    const there = await ask(s, 'SELECT id FROM entries').then(
      (rows) => new Set(rows.map((r) => Number(r['id']))),
      (e: unknown) => {
        result.trouble ??= String(e)
        return new Set<number>()
      },
    )
    result.lost = Math.max(result.lost, [...writers.acknowledged].filter((id) => !there.has(id)).length)
    result.refusedButThere = Math.max(result.refusedButThere, [...writers.refused].filter((id) => there.has(id)).length)
  }
  result.ok =
    result.lost === 0 &&
    result.refusedButThere === 0 &&
    result.trouble === undefined &&
    result.marks === 'exact' &&
    result.acknowledged > 0
  return result
}

const cuts: Cut[] = []
const say = (c: Cut): void => {
  cuts.push(c)
  console.log(
    `${c.what.padEnd(34)} ${c.ok ? 'ok  ' : 'lost'} acknowledged ${c.acknowledged}, of these lost ${c.lost}; unknown ${c.unknown}; refused but there ${c.refusedButThere}; unflushed file: ${c.marks}; ` +
      `${c.recovered_ms === undefined ? c.trouble : `whole again after ${c.recovered_ms} ms`}`,
  )
}
{
  const m = new Machine()
  try {
    await m.start()
    for (let i = 0; i < runs; i++) say(await cut(m, [i % 3], `power cut of server ${i % 3}`))
    for (let i = 0; i < runs; i++) say(await cut(m, [0, 1, 2], 'power cut of all three'))
  } finally {
    await m.destroy()
  }
}
let control = false
for (let i = 0; i < runs && !control; i++) {
  const m = new Machine()
  try {
    await m.start()
    await Promise.all(m.servers.map((s) => s.stop()))
    m.fsync = 'off'
    await Promise.all(m.servers.map((s) => s.start()))
    for (const d of m.disk) d.sync()
    const c = await cut(m, [0, 1, 2], 'control, fsync off: all three')
    control = c.acknowledged > 0 && c.lost > 0
    say(c)
  } finally {
    await m.destroy()
  }
}
const real = cuts.filter((c) => !c.what.startsWith('control'))
console.log(
  JSON.stringify({
    cuts: real.length,
    failed: real.filter((c) => !c.ok).length,
    acknowledged: real.reduce((n, c) => n + c.acknowledged, 0),
    lost: real.reduce((n, c) => n + c.lost, 0),
    worst_recovery_ms: Math.max(...real.map((c) => c.recovered_ms ?? 0)),
    control_lost: control,
  }),
)
if (!control) console.log('control NOT CAUGHT: with fsync off nothing was lost, so these cuts prove nothing')
process.exitCode = control && real.every((c) => c.ok) ? 0 : 1
