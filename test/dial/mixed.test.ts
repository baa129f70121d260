// Clients with different settings, and a dial that is turned under their load: whatever each of them has set, a
// write is on as many members as all have agreed on, and a strong read asks as many as that leaves. A clone knows
// what was agreed on.
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { cloneReplica } from '../../driver/cli/building.ts'
import type { Quorum } from '../../driver/protocol/dial.ts'
import { recorder, type Mop, type Transaction } from '../checker/history.ts'
import { checkListAppend } from '../checker/list-append.ts'
import { checkFinal } from '../checker/final.ts'
import { bank, cluster, settled } from '../cluster.ts'
import { ask } from '../servers.ts'

const LENGTH_MS = 10_000
const KEYS = ['a', 'b']
const LISTS = 'SELECT k, v FROM lists'

describe('mixed settings', function () {
  this.timeout(90_000)

  it('the dial is turned while clients of every setting write and read: strictly serializable', async () => {
    const c = await cluster()
    try {
      const settings: Quorum[] = ['majority', 'all', 'read-one', { write: 2, read: 3 }, { write: 3, read: 1 }]
      const pools = settings.map((quorum) => c.pool({ quorum, max: 3, callTimeoutMillis: 1500, reads: 'strong' }))
      const [first] = pools
      await bank(first!, 1)
      await first!.query('CREATE TABLE lists (k text PRIMARY KEY, v int[] NOT NULL)')
      await first!.query("INSERT INTO lists SELECT k, '{}' FROM unnest($1::text[]) k", [KEYS])
      const history: Transaction[] = []
      let [value, turns] = [0, 0]
      const until_ms = performance.now() + LENGTH_MS
      const record = recorder(history)
      const recorded: typeof record = async (...transaction) => {
        await record(...transaction)
        await sleep(Math.random() * 60)
      }
      await Promise.all([
        ...pools.map(async (p, i) => {
          while (performance.now() < until_ms) {
            const [key, v] = [KEYS[value % 2]!, ++value]
            await recorded(
              `p${i}`,
              [['append', key, v]],
              async () => void (await p.query('UPDATE lists SET v = v || $2::int WHERE k = $1', [key, v])),
            )
            const mops: Mop[] = []
            await recorded(`p${i}`, mops, async () => {
              for (const { k, v: list } of (
                await p.query<{ k: string; v: number[] }>(v % 3 === 0 ? `${LISTS} WHERE k = '${key}'` : LISTS)
              ).rows)
                mops.push(['r', k, list])
            })
          }
        }),
        (async () => {
          for (let i = 0; performance.now() < until_ms; i++) {
            await pools[i % pools.length]!.setClusterQuorum(i % 2 === 0 ? 'all' : 'majority').then(
              () => turns++,
              () => undefined,
            )
            await sleep(100)
          }
        })(),
        (async () => {
          while (performance.now() < until_ms) {
            await sleep(3500) // the dial can be turned away from 'all' only when all are there
            const server = c.servers[Math.floor(Math.random() * 3)]!
            await server.kill()
            await sleep(300)
            await server.start()
          }
        })(),
      ])
      await settled(c.servers, 20_000)
      const final = new Map((await ask(c.servers[0]!, LISTS)).map((r) => [r['k'] as string, r['v'] as number[]]))
      const told = history.filter((t) => t.type === 'ok').length
      console.log(`      ${told} of ${history.length} acknowledged, the dial was turned ${turns} times`)
      expect(
        [...checkListAppend(history), ...checkFinal(history, final)].map((a) => `${a.kind}: ${a.message}`),
      ).deep.equal([])
      expect(Math.min(told / 10, turns)).at.least(2)
    } finally {
      await c.destroy()
    }
  })

  it('a clone knows on how many members every write is', async () => {
    const c = await cluster(5)
    try {
      const pool = c.pool()
      await bank(pool, 3)
      await pool.setClusterQuorum({ write: 4, read: 2 })
      await settled(c.servers)
      await pool.end()
      await cloneReplica({ urls: c.servers.map((s) => s.url), which: '5', wipe: new URL(c.servers[4]!.url).host })
      expect(
        await Promise.all(c.servers.map(async (s) => (await ask(s, 'SELECT quorum.write_floor() AS w'))[0]?.['w'])),
      ).deep.equal([4, 4, 4, 4, 4])
    } finally {
      await c.destroy()
    }
  })
})
