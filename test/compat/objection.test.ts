import { Model, raw } from 'objection'
import { open } from './knex-library.ts'
import { codeIn } from './harness.ts'
import { orm } from './orm.ts'

class Author extends Model {
  static override tableName = 'authors'
  id!: number
  name!: string
  static override relationMappings = {
    books: {
      relation: Model.HasManyRelation,
      modelClass: () => Book,
      join: { from: 'authors.id', to: 'books.author_id' },
    },
  }
}
class Book extends Model {
  static override tableName = 'books'
  id!: number
  title!: string
  sold!: number
}

orm('objection', (db) => {
  const { knex, migrate, close } = open(db)
  return {
    migrate,
    close,
    publish: (name, title) =>
      knex.transaction(async (tx) => {
        await Author.query(tx).insertGraph({ name, books: [{ title }] } as object)
      }),
    async rename(title, to) {
      await Book.query(knex).where({ title }).patch({ title: to })
    },
    async remove(title) {
      await Book.query(knex).where({ title }).delete()
    },
    titles: async () => (await Book.query(knex)).map((b) => b.title),
    sell: (title) =>
      knex.transaction(async (tx) => {
        const book = await Book.query(tx).findOne({ title }).forUpdate().throwIfNotFound()
        await book.$query(tx).patch({ sold: raw('sold + 1') } as object)
      }),
    sold: async (title) => (await Book.query(knex).findOne({ title }).throwIfNotFound()).sold,
    giveUp: (name) =>
      knex.transaction(async (tx) => {
        await Author.query(tx).insert({ name })
        throw new Error('enough')
      }),
    nested: (name, inner) =>
      knex.transaction(async (tx) => {
        await Author.query(tx).insert({ name })
        await tx
          .transaction(async (nested) => {
            await Author.query(nested).insert([{ name: inner }, { name }])
          })
          .catch((error: unknown) => {
            if (codeIn(error) !== '23505') throw error
          })
      }),
    authors: async () => (await Author.query(knex)).map((a) => a.name),
  }
})
