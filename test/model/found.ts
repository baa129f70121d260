/**
 * What the models found in the driver (at d5512b1), on real servers: npx tsx test/model/found.ts All three are
 * mended, and this ends with 0; it ends with 1 if one is back. Each run is made certain by holding a lock, or a
 * connection, where a backend may just as well be paused. The models keep them as mutants of the same names.
 */
import pg from 'pg'
import { choose } from '../../driver/protocol/decision.ts'
import { resolve } from '../../driver/repair/resolve.ts'
import { OWNER, type Replica } from '../../driver/replica/replica.ts'
import { onStep } from '../../driver/runtime.ts'
import { bank, cluster, sealed } from '../cluster.ts'
import { ask } from '../servers.ts'

const pause = (ms: number): Promise<void> => new Promise((r) => setTimeout(r, ms))
const c = await cluster()
const pool = c.pool()
await bank(pool)
const found: Record<string, unknown>[] = []

const portOf = (client: unknown): number => (client as { port: number }).port

/**
 * promise() on a member where the transaction is prepared: T is not had, and its reply must not be older than the
 * row that it writes.
 */
async function stale(): Promise<void> {
  const change = await sealed(pool, 'UPDATE accounts SET balance = 1 WHERE id = 1')
  pool.cluster.live.add(change.gid)
  // b leads, and r2 does not hear it: else r2 would be free, and abort for that reason (docs/decisions/0004).
  const [a, b, d] = [1, 0, 2].map((n) => pool.cluster.replicas[(change.lead + n) % 3]!) as [Replica, Replica, Replica]
  const accept = async (replica: Replica, ballot: typeof OWNER): Promise<string> => {
    const session = await replica.open()
    const { answer } = await session.accept(change, ballot)
    session.release()
    return answer
  }
  const one = { number: 1, by: 'r1' }
  const two = { number: 2, by: 'r2' }
  // abort: nothing is prepared there
  const first = choose([await b.promise(change.gid, one, null), await d.promise(change.gid, one, null)], 3)
  await accept(a, OWNER)
  const between = new pg.Client(c.urls[pool.cluster.replicas.indexOf(a)]!)
  await between.connect()
  await between.query('BEGIN')
  // r1's vote on a, its commit about to be flushed
  await between.query("SELECT quorum.promise($1, 1, 'r1', 'abort')", [change.gid])
  const promises = [a.promise(change.gid, two, null), d.promise(change.gid, two, null)]
  await pause(300)
  await between.query('COMMIT')
  await between.end()
  const abort = (await b.promise(change.gid, one, 'abort')).yes // with a: W votes, abort is decided
  const second = choose(await Promise.all(promises), 3)
  const commit =
    (await a.promise(change.gid, two, 'commit')).yes &&
    (await accept(d, two)) === 'yes' &&
    (await d.promise(change.gid, two, 'commit')).yes
  found.push({
    bug: 'STALE: decided both ways',
    chosen: [first, second].join(', '),
    back: first === 'abort' && abort && second === 'commit' && commit,
  })
  for (const replica of [a, b, d]) {
    const session = await replica.open()
    await session.finish(change.gid, 'abort')
    session.release()
  }
}

/**
 * evidence(): applied is read, then the lead commits, then versions are read: our own commit must not look like
 * another's.
 */
async function torn(): Promise<void> {
  const other = c.pool()
  await other.query('SELECT 1')
  const gate = (): { at: Promise<void>; arrive: () => void } => {
    let arrive = (): void => undefined
    return { at: new Promise<void>((r) => (arrive = r)), arrive: () => arrive() }
  }
  const [committing, go, committed, tell] = [gate(), gate(), gate(), gate()]
  let gid = ''
  const client = await pool.connect()
  const lead = c.servers.findIndex((s) => s.port === portOf(client))
  const [follower, silent] = [0, 1, 2].filter((i) => i !== lead) as [number, number]
  await c.servers[silent]!.kill()
  onStep(async (step, g) => {
    if (step === 'lead-committing') {
      gid = g ?? ''
      committing.arrive()
      await go.at
    }
    if (step === 'lead-committed') {
      committed.arrive()
      await tell.at
    } // here the owner is paused for a moment
  })
  const told = client.query('UPDATE accounts SET balance = 777 WHERE id = 2').then(() => 'committed', String)
  await committing.at
  const between = new pg.Client(c.urls[lead]!)
  await between.connect()
  // evidence() waits here, after it has looked at applied
  await between.query('BEGIN; LOCK TABLE quorum.ballot IN ACCESS EXCLUSIVE MODE')
  const outcome = resolve(other.cluster, gid)
  await pause(300)
  go.arrive()
  await committed.at
  await between.query('COMMIT')
  await between.end()
  const decided = await outcome
  tell.arrive()
  found.push({
    bug: 'TORN: the resolver aborts what the caller is told is committed',
    back: decided === 'abort' && (await told) === 'committed',
    copies: (await ask(c.servers[follower]!, 'SELECT FROM quorum.applied WHERE gid = $1', [gid])).length + 1,
  })
  onStep(undefined)
  client.release(true)
  await c.servers[silent]!.start()
}

/** The lead's COMMIT must be durable whatever the user's session says. */
async function async_(): Promise<void> {
  await Promise.all(c.servers.map((s) => ask(s, 'ALTER DATABASE postgres SET synchronous_commit = off')))
  const client = await c.pool().connect()
  const raw = pg.Client.prototype.query.bind(client) as (text: string) => Promise<pg.QueryResult>
  let setting: unknown
  onStep(async (step) => {
    if (step === 'lead-committing')
      setting = ((await raw('SHOW synchronous_commit')).rows[0] as { synchronous_commit: string }).synchronous_commit
  })
  await client.query('UPDATE accounts SET balance = 3 WHERE id = 3')
  onStep(undefined)
  client.release(true)
  found.push({ bug: 'ASYNC: the lead commits with synchronous_commit off', back: setting === 'off' })
  await Promise.all(c.servers.map((s) => ask(s, 'ALTER DATABASE postgres RESET synchronous_commit')))
}

await stale()
await torn()
await async_()
console.table(found)
await c.destroy()
process.exit(found.some((f) => f['back'] === true) ? 1 : 0)
