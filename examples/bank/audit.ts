/**
 * The proof at the end: each server is asked by itself, without the driver, for its rows, and they are compared
 * with each other and with what the clients were promised. Hashes say that the servers are equal; the sums say that
 * they are right.
 */
import type { EmbeddedServer } from '../../driver/embedded/embedded.ts'
import { OPENING_BALANCE, TOTAL } from './bank.ts'
import type { Fleet } from './fleet.ts'
import { ask, preparedOn } from './watch.ts'

export interface Books {
  name: string
  accounts: string
  history: string
  total: number
  transfers: number
  unexplained: number
  prepared: number
}
export interface Audit {
  books: Books[]
  lost: number
  unannounced: number
  phantoms: number
  wrong: string[]
}

async function booksOf(server: EmbeddedServer, name: string): Promise<Books> {
  const [row] =
    (await ask<Omit<Books, 'name' | 'prepared'>>(
      server,
      `SELECT quorum.table_hash('accounts') AS accounts, quorum.table_hash('history') AS history,
    (SELECT sum(balance)::int FROM accounts) AS total, (SELECT count(*)::int FROM history) AS transfers,
    (SELECT count(*)::int FROM accounts a WHERE balance <> ${OPENING_BALANCE}
      + coalesce((SELECT sum(amount) FROM history WHERE target = a.id), 0) - coalesce((SELECT sum(amount) FROM history WHERE source = a.id), 0)) AS unexplained`,
    )) ?? []
  if (!row) throw new Error(`${name} does not answer`)
  return { name, ...row, prepared: (await preparedOn(server)).length }
}

export async function audit(servers: readonly EmbeddedServer[], fleet: Fleet): Promise<Audit> {
  const books = await Promise.all(servers.map((s, i) => booksOf(s, `server ${i + 1}`)))
  const present = await Promise.all(
    servers.map(
      async (s) =>
        new Map(
          ((await ask<{ id: string; client: string }>(s, 'SELECT id, client FROM history')) ?? []).map((r) => [
            r.id,
            r.client,
          ]),
        ),
    ),
  )
  const lost = [...fleet.acknowledged.keys()].filter((id) => !present.every((p) => p.has(id))).length
  const more = [...(present[0] ?? [])].filter(([id]) => !fleet.acknowledged.has(id))
  // A killed client was told nothing; of the others each transfer that happened must have been acknowledged.
  const undecided = new Set(fleet.failures.filter((f) => f.outcome === 'unknown').map((f) => f.id))
  const phantoms = more.filter(([id, client]) => !fleet.killed.has(client) && !undecided.has(id)).length
  const wrong: string[] = []
  const check = (fine: boolean, otherwise: string): void => {
    if (!fine) wrong.push(otherwise)
  }
  check(fleet.acknowledged.size > 0, 'nothing was committed at all')
  check(lost === 0, `${lost} acknowledged transfers are not on all three servers`)
  check(phantoms === 0, `${phantoms} transfers are there although their client was told that they failed`)
  check(
    books.every((b) => b.accounts === books[0]?.accounts && b.history === books[0]?.history),
    'the servers hold different rows',
  )
  check(
    books.every((b) => b.total === TOTAL),
    `the bank's total is not ${TOTAL} everywhere`,
  )
  check(
    books.every((b) => b.unexplained === 0),
    'balances differ from what the history adds up to',
  )
  check(
    books.every((b) => b.prepared === 0),
    'transactions are still in doubt',
  )
  check(fleet.crashed.length === 0, `ended by themselves: ${fleet.crashed.join(', ')}`)
  return { books, lost, unannounced: more.length - phantoms, phantoms, wrong }
}
