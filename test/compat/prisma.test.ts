/**
 * Adapter level: what Prisma's engine asks of it. The engine and the generated client are not here (`prisma
 * generate` downloads a binary).
 */
import { PrismaPg } from '@prisma/adapter-pg'
import { codeIn } from './harness.ts'
import { orm } from './orm.ts'

type Adapter = Awaited<ReturnType<PrismaPg['connect']>>
type Transaction = Awaited<ReturnType<Adapter['startTransaction']>>

orm('@prisma/adapter-pg', async ({ pool }) => {
  const adapter = await new PrismaPg(pool).connect()
  const argTypes = (args: unknown[]) =>
    args.map((a) => ({
      scalarType: typeof a === 'number' ? ('int' as const) : ('string' as const),
      arity: 'scalar' as const,
    }))
  const rows = async (on: Adapter | Transaction, sql: string, ...args: unknown[]) =>
    (await on.queryRaw({ sql, args, argTypes: argTypes(args) })).rows
  const run = (on: Adapter | Transaction, sql: string, ...args: unknown[]) =>
    on.executeRaw({ sql, args, argTypes: argTypes(args) })
  /** As Prisma's engine does it: the adapter's transaction, with the statements that `options` wants to see. */
  const transaction = async (work: (tx: Transaction) => Promise<void>): Promise<void> => {
    const tx = await adapter.startTransaction()
    try {
      await work(tx)
      if (!tx.options.usePhantomQuery) await run(tx, 'COMMIT')
    } catch (error) {
      await run(tx, 'ROLLBACK').catch(() => undefined)
      await tx.rollback()
      throw error
    }
    await tx.commit()
  }
  const INSERT = 'INSERT INTO authors (name) VALUES ($1) RETURNING id'
  return {
    migrate: () =>
      adapter.executeScript(`CREATE TABLE authors (id serial PRIMARY KEY, name text NOT NULL UNIQUE);
      CREATE TABLE books (id serial PRIMARY KEY, author_id int NOT NULL REFERENCES authors ON DELETE CASCADE, title text NOT NULL, sold int NOT NULL DEFAULT 0)`),
    publish: (name, title) =>
      transaction(async (tx) => {
        const [[id] = []] = await rows(tx, INSERT, name)
        await run(tx, 'INSERT INTO books (author_id, title) VALUES ($1, $2)', id, title)
      }),
    async rename(title, to) {
      await run(adapter, 'UPDATE books SET title = $2 WHERE title = $1', title, to)
    },
    async remove(title) {
      await run(adapter, 'DELETE FROM books WHERE title = $1', title)
    },
    titles: async () => (await rows(adapter, 'SELECT title FROM books')).map(([title]) => title as string),
    sell: (title) =>
      transaction(async (tx) => {
        const [[id, sold] = []] = await rows(tx, 'SELECT id, sold FROM books WHERE title = $1 FOR UPDATE', title)
        await run(tx, 'UPDATE books SET sold = $2 WHERE id = $1', id, (sold as number) + 1)
      }),
    sold: async (title) => (await rows(adapter, 'SELECT sold FROM books WHERE title = $1', title))[0]?.[0] as number,
    giveUp: (name) =>
      transaction(async (tx) => {
        await rows(tx, INSERT, name)
        throw new Error('enough')
      }),
    nested: (name, inner) =>
      transaction(async (tx) => {
        await rows(tx, INSERT, name)
        await tx.createSavepoint?.('s1')
        try {
          await run(tx, 'INSERT INTO authors (name) VALUES ($1), ($2)', inner, name)
        } catch (error) {
          if (codeIn(error) !== '23505') throw error
          await tx.rollbackToSavepoint?.('s1')
        }
      }),
    authors: async () => (await rows(adapter, 'SELECT name FROM authors')).map(([name]) => name as string),
    close: () => adapter.dispose(),
  }
})
