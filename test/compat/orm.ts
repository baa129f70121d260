/**
 * What every query builder and ORM here must do, the same way on both pools. Each brings these ten verbs, in its
 * own words.
 */
import { expect } from 'chai'
import { compat, failing, type Database } from './harness.ts'

export interface Library {
  /**
   * authors(id, name unique), books(id, author_id → authors, title, sold default 0), by the library's own
   * migrations if it has any.
   */
  migrate(): Promise<void>
  /** An author and a book by him, in one transaction. */
  publish(author: string, title: string): Promise<void>
  rename(title: string, to: string): Promise<void>
  remove(title: string): Promise<void>
  titles(): Promise<string[]>
  /** In a transaction: reads `sold` and writes one more, the row locked in between. */
  sell(title: string): Promise<void>
  sold(title: string): Promise<number>
  /** Inserts an author, then throws new Error('enough') in the transaction. */
  giveUp(author: string): Promise<void>
  /**
   * Inserts the author; in a nested transaction (a savepoint) inserts `inner` and fails with 23505; the outer one
   * commits.
   */
  nested(author: string, inner: string): Promise<void>
  authors(): Promise<string[]>
  close(): Promise<void>
}

export function orm(name: string, open: (db: Database) => Library | Promise<Library>): void {
  compat(name, async (db) => {
    const it = await open(db)
    await it.migrate()
    await it.publish('Ursula', 'The Dispossessed')
    await it.publish('Italo', 'Le cosmicomiche')
    await it.publish('Primo', 'La chiave a stella')
    await it.rename('Le cosmicomiche', 'Cosmicomics')
    await it.remove('La chiave a stella')
    expect(await it.titles()).to.have.members(['The Dispossessed', 'Cosmicomics'])

    await it.giveUp('Nobody').then(
      () => expect.fail('it should have failed'),
      (e: Error) => expect(e.message).to.include('enough'),
    )
    await it.nested('Outer', 'Inner')
    expect(await it.authors()).to.have.members(['Ursula', 'Italo', 'Primo', 'Outer'])
    expect(await failing(it.publish('Ursula', 'again')), 'a unique violation').to.equal('23505')
    expect(await it.titles()).to.have.length(2)

    await Promise.all(
      Array.from({ length: 6 }, async () => {
        for (let i = 0; i < 3; i++) await db.again(() => it.sell('Cosmicomics'))
      }),
    )
    expect(await it.sold('Cosmicomics'), 'no lost update').to.equal(18)

    const done = new Set<number>()
    await db.storm(4, 3000, async (n) => {
      await it.publish(`author ${n}`, `book ${n}`)
      done.add(n)
    })
    const titles = (await db.again(() => it.titles())) ?? []
    expect(titles, 'every acknowledged one, once').to.include.members([...done].map((n) => `book ${n}`))
    expect(new Set(titles).size).to.equal(titles.length)
    expect(titles.length - 2 - done.size, 'not more than were unknown').to.be.within(0, db.unknown())
    await it.close()
  })
}
