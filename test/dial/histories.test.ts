// What each kind of read promises, on histories of three real servers of which one after another is killed or
// stands still: strong reads are strictly serializable also where they ask one replica (W = N), the others miss no
// more than they may by the clock of this test, and snapshots are consistent. And weak settings are weak.
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import type { Pool } from '../../driver/index.ts'
import type { Reads } from '../../driver/protocol/dial.ts'
import { recorder, type Mop, type Transaction } from '../checker/history.ts'
import { checkListAppend } from '../checker/list-append.ts'
import { bank, cluster, settled, until, type TestCluster } from '../cluster.ts'
import { startProxy } from '../faults/proxy.ts'
import { ask } from '../servers.ts'
import { judgeWeak, type WeakMode, type WeakRead } from '../sim/weak.ts'

const LENGTH_MS = 12_000
const KEYS = ['a', 'b', 'c']
const TOTAL = 5000
const LISTS = 'SELECT k, v FROM lists'
const pick = <T>(list: readonly T[]): T => list[Math.floor(Math.random() * list.length)]!
const listsOf = (rows: unknown[]): Map<string, number[]> =>
  new Map((rows as { k: string; v: number[] }[]).map(({ k, v }) => [k, v]))
const readsOf = (mode: WeakMode): Reads =>
  typeof mode === 'string' ? mode : 'lag' in mode ? { maxLag: mode.lag } : { maxStalenessMs: mode.stale_ms }

describe('reads under faults', function () {
  this.timeout(90_000)
  let c: TestCluster
  beforeEach(async () => {
    c = await cluster()
    const pool = c.pool()
    await bank(pool, 5)
    await pool.query('CREATE TABLE lists (k text PRIMARY KEY, v int[] NOT NULL)')
    await pool.query("INSERT INTO lists SELECT k, '{}' FROM unnest($1::text[]) k", [KEYS])
    await pool.end()
    await settled(c.servers)
  })
  afterEach(() => c.destroy())

  for (const quorum of ['majority', 'all'] as const) {
    it(`${quorum}: strong reads, sessions, tokens, bounds, snapshots`, async () => {
      const pools = [1, 2, 3].map(() => c.pool({ quorum, callTimeoutMillis: 1000, recovering: 'serve-stale' }))
      await pools[0]!.setClusterQuorum(quorum)
      const history: Transaction[] = []
      const weak: WeakRead[] = []
      const snapshots: { token: string; rows: string }[] = []
      let [value, totals] = [0, 0]
      const until_ms = performance.now() + LENGTH_MS
      for (const p of pools) void p.session
      const recorded = recorder(history)
      const working = async (work: () => Promise<void>): Promise<void> => {
        while (performance.now() < until_ms) {
          await work()
          await sleep(Math.random() * 20)
        }
      }
      const read = async (p: Pool, session: string, mode: WeakMode, began = performance.now()): Promise<void> => {
        const result = await p
          .reads(readsOf(mode))
          .query(LISTS)
          .catch(() => undefined)
        if (result) weak.push({ session, mode, began, end: performance.now(), lists: listsOf(result.rows) })
      }
      await Promise.all([
        ...pools.flatMap((p, i) => [
          working(() => {
            const [key, v] = [pick(KEYS), ++value]
            return recorded(
              `p${i}/w`,
              [['append', key, v]],
              async () => void (await p.query('UPDATE lists SET v = v || $2::int WHERE k = $1', [key, v])),
            )
          }),
          working(async () => {
            const mops: Mop[] = []
            await recorded(`p${i}/r`, mops, async () => {
              const { rows } = await p.query(LISTS)
              for (const [k, v] of listsOf(rows)) mops.push(['r', k, v])
            })
          }),
          working(() =>
            read(
              p,
              `p${i}`,
              pick<WeakMode>(['session', 'eventual', { stale_ms: pick([5, 100, 1000]) }, { lag: pick([0, 2]) }]),
            ),
          ),
          working(async () => {
            // what one has seen, another does not read less of
            const [other, began] = [pools[(i + 1) % 3]!, performance.now()]
            other.session.join(p.session.token())
            await read(other, `p${i}`, 'session', began)
          }),
        ]),
        working(async () => {
          const [from, to] = [1 + Math.floor(Math.random() * 5), 1 + Math.floor(Math.random() * 5)]
          await pools[0]!
            .transaction({ locks: [...new Set([`accounts/${from}`, `accounts/${to}`])] }, async (tx) => {
              await tx.query('UPDATE accounts SET balance = balance - 1 WHERE id = $1', [from])
              await tx.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [to])
            })
            .catch(() => undefined)
        }),
        working(async () => {
          const result = await pools[1]!
            .reads(pick<Reads>(['eventual', 'session', { maxLag: 5 }, 'strong']))
            .query('SELECT sum(balance) AS n FROM accounts')
            .catch(() => undefined)
          if (!result) return
          totals++
          expect(Number((result.rows[0] as { n: string }).n), JSON.stringify(result.quorum)).equal(TOTAL)
        }),
        working(async () => {
          const all = 'SELECT id, balance FROM accounts ORDER BY id'
          const token = await pools[2]!.snapshot().catch(() => undefined)
          const first =
            token &&
            (await pools[2]!
              .reads({ snapshot: token })
              .query(all)
              .catch(() => undefined))
          if (first) snapshots.push({ token, rows: JSON.stringify(first.rows) })
          const earlier = pick(snapshots)
          const again =
            earlier &&
            (await pools[2]!
              .reads({ snapshot: earlier.token })
              .query(all)
              .catch(() => undefined))
          if (again) expect(JSON.stringify(again.rows), 'a snapshot read again').equal(earlier.rows)
          await sleep(200)
        }),
        working(async () => {
          const server = pick(c.servers)
          await sleep(700)
          if (Math.random() < 0.5) {
            await server.freeze()
            await sleep(900)
            await server.thaw()
          } else {
            await server.kill()
            await sleep(500)
            await server.start()
          }
          await sleep(700)
        }),
      ])
      await until('a last read', 15_000, async () => Boolean(await pools[0]!.query(LISTS)))
      await settled(c.servers, 20_000)
      const final = listsOf(await ask(c.servers[0]!, LISTS))
      const wrong: string[] = checkListAppend(history).map((a) => `${a.kind}: ${a.message}`)
      judgeWeak(weak, history, final, (what) => wrong.push(what))
      const told = history.filter((t) => t.type === 'ok')
      const figures = `${told.filter((t) => t.process.endsWith('w')).length} writes, ${told.filter((t) => t.process.endsWith('r')).length} strong and ${weak.length} weaker reads, ${totals} sums, ${snapshots.length} snapshots`
      console.log(`      ${figures}`)
      expect(wrong, figures).deep.equal([])
      expect(
        snapshots.every(
          ({ rows }) =>
            (JSON.parse(rows) as { balance: string }[]).reduce((sum, r) => sum + Number(r.balance), 0) === TOTAL,
        ),
        'a snapshot is consistent',
      ).equal(true)
      expect(Math.min(told.length, weak.length, totals, snapshots.length), figures).above(5)
    })
  }

  /** Two pools: one that the third server cannot hear, and writes; one that reads there. */
  async function apart(work: (writer: Pool, reader: Pool) => Promise<void>): Promise<void> {
    const proxy = await startProxy(c.urls[2]!)
    const writer = c.pool({ replicas: [...c.urls.slice(0, 2), proxy.url], callTimeoutMillis: 1000 })
    const reader = c.pool({
      replicas: c.urls.map((connectionString, i) => ({ connectionString, name: `s${i}`, weight: i === 2 ? 1 : 0 })),
      recovering: 'serve-stale',
      write: { prefer: 's2' },
    })
    await Promise.all([writer, reader].map((p) => p.query(LISTS)))
    proxy.cut('both')
    await writer.query("UPDATE lists SET v = '{1}' WHERE k = 'a'")
    await work(writer, reader)
    await writer.end()
    await proxy.close()
  }
  const ofA = async (pool: Pool, reads: Reads): Promise<number[] | undefined> =>
    ((await pool.reads(reads).query("SELECT v FROM lists WHERE k = 'a'")).rows[0] as { v: number[] } | undefined)?.v

  it('an eventual read is stale; a strong one at the same moment is not', () =>
    apart(async (_writer, reader) => {
      expect(await ofA(reader, 'eventual')).deep.equal([])
      expect(await ofA(reader, 'strong')).deep.equal([1])
    }))

  it('control: R + W = N, forced past the check, loses an acknowledged write', () =>
    apart(async (_writer, reader) => {
      await ask(c.servers[2]!, 'INSERT INTO quorum.dial (write) VALUES (3)') // nobody agreed on that: writes are on two
      Object.assign(reader.cluster, { dial: { ...reader.cluster.dial, read: 1 }, floor: 3 })
      expect(await ofA(reader, 'strong')).deep.equal([])
    }))
})
