/** An express-session store without express: the store is what talks to the database. */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { compat } from './harness.ts'

const require = createRequire(import.meta.url) // it has no types
class Store {
  emit(): void {}
}
const PgStore = (require('connect-pg-simple') as (session: object) => unknown)({ Store }) as new (options: object) => {
  get(sid: string, callback: (error: unknown, session?: unknown) => void): void
  set(sid: string, session: unknown, callback: (error?: unknown) => void): void
  touch(sid: string, session: unknown, callback: (error?: unknown) => void): void
  destroy(sid: string, callback: (error?: unknown) => void): void
  pruneSessions(callback: (error?: unknown) => void): void
  close(): Promise<void>
}

compat('connect-pg-simple', async (db) => {
  await db.pool.query(readFileSync(require.resolve('connect-pg-simple/table.sql'), 'utf8'))
  const store = new PgStore({ pool: db.pool, pruneSessionInterval: false })
  const [get, set, touch, destroy, prune] = [store.get, store.set, store.touch, store.destroy, store.pruneSessions].map(
    (f) => promisify(f.bind(store) as (...args: unknown[]) => void),
  ) as ((...args: unknown[]) => Promise<unknown>)[]
  const session = (n: number, ms = 60_000) => ({
    user: n,
    cookie: { expires: new Date(Date.now() + ms).toISOString() },
  })

  await set!('ann', session(1))
  await set!('ann', session(2))
  await set!('old', session(3, -60_000))
  expect(await get!('ann')).to.include({ user: 2 })
  await touch!('ann', session(2, 120_000))
  await prune!()
  expect(await get!('old')).to.equal(undefined)
  await destroy!('ann')
  expect(await get!('ann')).to.equal(undefined)

  // Each visitor logs in, comes back, and sees what he left.
  const visits = await db.storm(4, 3000, async (n) => {
    await set!(`visitor ${n}`, session(n))
    expect(await get!(`visitor ${n}`)).to.include({ user: n })
  })
  const { rows } = await db.pool.query('SELECT count(*)::int AS n FROM session')
  expect(rows[0].n).to.be.within(visits, visits + db.unknown())
  await store.close()
})
