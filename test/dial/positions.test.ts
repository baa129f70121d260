// Every position of the dial on one, three, four and five real servers, taken away one by one: exactly what goes on
// is what protocol/outlook.ts says, the rest fails definitely, soon, and with a sentence that says who is missing
// and how many are needed; when they are back, everything goes on.
import { expect } from 'chai'
import type { Pool } from '../../driver/index.ts'
import { leastRead, type Quorum, type Reads } from '../../driver/protocol/dial.ts'
import { outlook } from '../../driver/protocol/outlook.ts'
import { majority } from '../../driver/protocol/quorum.ts'
import { bank, cluster, settled, until, type TestCluster } from '../cluster.ts'
import type { TestServer } from '../servers.ts'

/** Longer than any refusal may take: two deadlines of a call, and what the machine adds. */
const BOUND_MS = 8000
const READS: Readonly<Record<string, Reads>> = {
  strong: 'strong',
  session: 'session',
  staleness: { maxStalenessMs: 600_000 },
  lag: { maxLag: 1000 },
  eventual: 'eventual',
}
type Works = Record<string, boolean>

const range = (from: number, to: number): number[] =>
  Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i)
const positions = (n: number): Quorum[] => [
  'majority',
  'all',
  'read-one',
  ...range(majority(n), n).flatMap((write) => range(leastRead(n, write), n).map((read) => ({ write, read }))),
]
const named = (q: Quorum): string => (typeof q === 'string' ? q : `write ${q.write}, read ${q.read}`)

function expected(n: number, write: number, read: number, lost: number): Works {
  const { writes, strongReads, weakReads } = outlook(n, write, read)[lost]!
  // A bound in changesets is asked of a majority; where there is none a strong read answers, if the dial lets it.
  return {
    write: writes,
    strong: strongReads,
    session: weakReads,
    staleness: weakReads,
    lag: strongReads || n - lost >= majority(n),
    eventual: weakReads,
  }
}

for (const n of [1, 3, 4, 5]) {
  describe(`the dial on ${n} server${n > 1 ? 's' : ''}`, function () {
    this.timeout(90_000)
    let c: TestCluster
    let amount = 0
    before(async () => {
      c = await cluster(n)
      const pool = c.pool()
      await bank(pool, 3)
      await pool.end()
    })
    afterEach(() => Promise.all(c.servers.map((s) => s.start())))
    after(() => c.destroy())

    /** What works now. Whatever does not is judged here. */
    async function tried(
      pool: Pool,
      up: readonly TestServer[],
      down: readonly TestServer[],
      needs: Readonly<Record<string, number>>,
    ): Promise<Works> {
      const works: Works = {}
      const attempt = async (what: string, work: () => Promise<unknown>): Promise<void> => {
        const from = performance.now()
        const error = await work().then(
          () => undefined,
          (e: unknown) => e as Error & { outcome?: string },
        )
        const took = performance.now() - from
        works[what] = error === undefined
        if (!error) return
        const said = `${what} with ${down.length} of ${n} down after ${took.toFixed(0)} ms: ${error.message}`
        expect(error, said).containSubset({ name: 'QuorumError', outcome: 'not-committed' })
        expect(took, said).below(BOUND_MS)
        for (const s of down) expect(error.message, said).include(String(s.port))
        if (what in needs) expect(error.message, said).match(new RegExp(`\\b${needs[what]}\\b`))
      }
      const want = ++amount
      await attempt('write', () => pool.query('UPDATE accounts SET balance = $1 WHERE id = 1', [want]))
      if (works['write']) await settled(up)
      else amount-- // it says that nothing happened: what is read shows whether that is so
      for (const [what, reads] of Object.entries(READS)) {
        await attempt(what, async () => {
          const { rows } = await pool.reads(reads).query('SELECT balance FROM accounts WHERE id = 1')
          expect(Number((rows[0] as { balance: string }).balance), `${what} with ${down.length} of ${n} down`).equal(
            amount,
          )
        })
      }
      return works
    }

    for (const [at, quorum] of positions(n).entries()) {
      it(named(quorum), async () => {
        const pool = c.pool({ quorum, callTimeoutMillis: 1000, connectionTimeoutMillis: 1000 })
        await pool.setClusterQuorum(quorum)
        const { write, read } = pool.cluster.dial
        void pool.session
        await pool.query('UPDATE accounts SET balance = $1 WHERE id = 1', [++amount])
        await settled(c.servers)
        const vouched = new Set<string | undefined>()
        const reads = pool.reads(READS['staleness']!)
        // sixteen at a time: the lot, who is asked, is drawn for so many
        await until('each replica vouched for', 10_000, async () => {
          for (let i = 0; i < 16; i++)
            vouched.add((await reads.query('SELECT balance FROM accounts WHERE id = 1')).quorum?.replica)
          return vouched.size === n
        }).catch((error: unknown) => {
          throw new Error(
            `${String(error)}: only ${[...vouched].join(', ')}; behind ${[...pool.cluster.lagging].map((r) => r.name).join(', ')}; suspects ${[...pool.cluster.suspects].map((r) => `${r.name} ${String(pool.cluster.problems.get(r))}`).join(', ')}`,
          )
        })
        const order = [...c.servers.slice(at % n), ...c.servers.slice(0, at % n)]
        for (const lost of range(0, n)) {
          if (lost > 0) await order[lost - 1]!.kill()
          await new Promise((r) => setTimeout(r, 100)) // sockets learn of it
          expect(
            await tried(pool, order.slice(lost), order.slice(0, lost), { write, strong: read }),
            `${lost} lost`,
          ).deep.equal(expected(n, write, read, lost))
        }
        await Promise.all(order.map((s) => s.start()))
        await until('all goes on', 20_000, async () =>
          Object.values(await tried(pool, order, [], {})).every((on) => on),
        )
        await settled(c.servers, 15_000)
        await pool.end()
      })
    }
  })
}
