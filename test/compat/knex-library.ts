/** The library of orm.ts in knex, with its migrations; objection stands on it. */
import createKnex, { type Knex } from 'knex'
import { codeIn, type Database } from './harness.ts'
import type { Library } from './orm.ts'

const first = {
  async up(knex: Knex) {
    await knex.schema.createTable('authors', (t) => {
      t.increments('id')
      t.text('name').notNullable().unique()
    })
    await knex.schema.createTable('books', (t) => {
      t.increments('id')
      t.integer('author_id').notNullable().references('authors.id').onDelete('CASCADE')
      t.text('title').notNullable()
      t.integer('sold').notNullable().defaultTo(0)
    })
  },
  async down(knex: Knex) {
    await knex.schema.dropTable('books').dropTable('authors')
  },
}

export const open = ({ pool }: Database): { knex: Knex } & Library => {
  const knex = createKnex({ client: 'pg', connectionPool: pool } as Knex.Config)
  const migrationSource = {
    getMigrations: async () => ['first'],
    getMigrationName: (name: string) => name,
    getMigration: async () => first,
  }
  return {
    knex,
    async migrate() {
      await knex.migrate.latest({ migrationSource })
      await knex.migrate.rollback({ migrationSource })
      await knex.migrate.latest({ migrationSource })
    },
    publish: (name, title) =>
      knex.transaction(async (tx) => {
        const [author] = await tx('authors').insert({ name }).returning('id')
        await tx('books').insert({ author_id: author.id, title })
      }),
    async rename(title, to) {
      await knex('books').where({ title }).update({ title: to })
    },
    async remove(title) {
      await knex('books').where({ title }).delete()
    },
    titles: () => knex('books').pluck('title'),
    sell: (title) =>
      knex.transaction(async (tx) => {
        const { id, sold } = await tx('books').where({ title }).forUpdate().first()
        await tx('books')
          .where({ id })
          .update({ sold: sold + 1 })
      }),
    sold: async (title) => (await knex('books').where({ title }).first()).sold,
    giveUp: (name) =>
      knex.transaction(async (tx) => {
        await tx('authors').insert({ name })
        throw new Error('enough')
      }),
    nested: (name, inner) =>
      knex.transaction(async (tx) => {
        await tx('authors').insert({ name })
        await tx
          .transaction((nested) => nested('authors').insert([{ name: inner }, { name }]))
          .catch((error: unknown) => {
            if (codeIn(error) !== '23505') throw error
          })
      }),
    authors: () => knex('authors').pluck('name'),
    close: () => knex.destroy(),
  }
}
