import { Kysely, Migrator, PostgresDialect, type Generated } from 'kysely'
import { orm } from './orm.ts'
import { codeIn } from './harness.ts'

interface Tables {
  authors: { id: Generated<number>; name: string }
  books: { id: Generated<number>; author_id: number; title: string; sold: Generated<number> }
}

orm('kysely', ({ pool }) => {
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) })
  const first = {
    async up(schema: Kysely<unknown>) {
      await schema.schema
        .createTable('authors')
        .addColumn('id', 'serial', (c) => c.primaryKey())
        .addColumn('name', 'text', (c) => c.notNull().unique())
        .execute()
      await schema.schema
        .createTable('books')
        .addColumn('id', 'integer', (c) => c.primaryKey().generatedAlwaysAsIdentity())
        .addColumn('author_id', 'integer', (c) => c.notNull().references('authors.id').onDelete('cascade'))
        .addColumn('title', 'text', (c) => c.notNull())
        .addColumn('sold', 'integer', (c) => c.notNull().defaultTo(0))
        .execute()
    },
  }
  return {
    async migrate() {
      const { error } = await new Migrator({
        db,
        provider: { getMigrations: async () => ({ first }) },
      }).migrateToLatest()
      if (error) throw error as Error
    },
    publish: (name, title) =>
      db.transaction().execute(async (tx) => {
        const { id } = await tx.insertInto('authors').values({ name }).returning('id').executeTakeFirstOrThrow()
        await tx.insertInto('books').values({ author_id: id, title }).execute()
      }),
    async rename(title, to) {
      await db.updateTable('books').set({ title: to }).where('title', '=', title).execute()
    },
    async remove(title) {
      await db.deleteFrom('books').where('title', '=', title).execute()
    },
    titles: async () => (await db.selectFrom('books').select('title').execute()).map((b) => b.title),
    sell: (title) =>
      db.transaction().execute(async (tx) => {
        const { id, sold } = await tx
          .selectFrom('books')
          .select(['id', 'sold'])
          .where('title', '=', title)
          .forUpdate()
          .executeTakeFirstOrThrow()
        await tx
          .updateTable('books')
          .set({ sold: sold + 1 })
          .where('id', '=', id)
          .execute()
      }),
    sold: async (title) =>
      (await db.selectFrom('books').select('sold').where('title', '=', title).executeTakeFirstOrThrow()).sold,
    giveUp: (name) =>
      db.transaction().execute(async (tx) => {
        await tx.insertInto('authors').values({ name }).execute()
        throw new Error('enough')
      }),
    async nested(name, inner) {
      const tx = await db.startTransaction().execute()
      await tx.insertInto('authors').values({ name }).execute()
      const saved = await tx.savepoint('inner').execute()
      try {
        await saved
          .insertInto('authors')
          .values([{ name: inner }, { name }])
          .execute()
      } catch (error) {
        if (codeIn(error) !== '23505') throw error
        await saved.rollbackToSavepoint('inner').execute()
      }
      await tx.commit().execute()
    },
    authors: async () => (await db.selectFrom('authors').select('name').execute()).map((a) => a.name),
    close: () => db.destroy(),
  }
})
