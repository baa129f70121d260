import { fileURLToPath } from 'node:url'
import { eq } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { migrate } from 'drizzle-orm/node-postgres/migrator'
import { authors, books } from './drizzle/schema.ts'
import { codeIn } from './harness.ts'
import { orm } from './orm.ts'

orm('drizzle-orm', ({ pool }) => {
  const db = drizzle(pool)
  return {
    // as `drizzle-kit generate` wrote it
    migrate: () => migrate(db, { migrationsFolder: fileURLToPath(new URL('drizzle', import.meta.url)) }),
    publish: (name, title) =>
      db.transaction(async (tx) => {
        const [author] = await tx.insert(authors).values({ name }).returning()
        await tx.insert(books).values({ authorId: author!.id, title })
      }),
    async rename(title, to) {
      await db.update(books).set({ title: to }).where(eq(books.title, title))
    },
    async remove(title) {
      await db.delete(books).where(eq(books.title, title))
    },
    titles: async () => (await db.select().from(books)).map((b) => b.title),
    sell: (title) =>
      db.transaction(async (tx) => {
        const [book] = await tx.select().from(books).where(eq(books.title, title)).for('update')
        await tx
          .update(books)
          .set({ sold: book!.sold + 1 })
          .where(eq(books.id, book!.id))
      }),
    sold: async (title) => (await db.select().from(books).where(eq(books.title, title)))[0]!.sold,
    giveUp: (name) =>
      db.transaction(async (tx) => {
        await tx.insert(authors).values({ name })
        throw new Error('enough')
      }),
    nested: (name, inner) =>
      db.transaction(async (tx) => {
        await tx.insert(authors).values({ name })
        await tx
          .transaction((nested) => nested.insert(authors).values([{ name: inner }, { name }]))
          .catch((error: unknown) => {
            if (codeIn(error) !== '23505') throw error
          })
      }),
    authors: async () => (await db.select().from(authors)).map((a) => a.name),
    close: async () => undefined,
  }
})
