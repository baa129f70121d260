import { DataSource, EntitySchema, type MigrationInterface, type QueryRunner } from 'typeorm'
import { codeIn } from './harness.ts'
import { orm } from './orm.ts'

interface Author {
  id: number
  name: string
}
interface Book {
  id: number
  author: Author
  title: string
  sold: number
}
const Author = new EntitySchema<Author>({
  name: 'Author',
  tableName: 'authors',
  columns: { id: { type: Number, primary: true, generated: 'increment' }, name: { type: String, unique: true } },
})
const Book = new EntitySchema<Book>({
  name: 'Book',
  tableName: 'books',
  columns: {
    id: { type: Number, primary: true, generated: 'increment' },
    title: { type: String },
    sold: { type: Number, default: 0 },
  },
  relations: {
    author: {
      type: 'many-to-one',
      target: 'Author',
      joinColumn: { name: 'author_id' },
      nullable: false,
      onDelete: 'CASCADE',
    },
  },
})
class AddPages1700000000000 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE books ADD COLUMN pages int')
  }
  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE books DROP COLUMN pages')
  }
}

orm('typeorm', async ({ pg, options }) => {
  const source = new DataSource({
    type: 'postgres',
    driver: pg,
    extra: options,
    entities: [Author, Book],
    migrations: [AddPages1700000000000],
  })
  await source.initialize()
  const books = source.getRepository(Book)
  return {
    async migrate() {
      await source.synchronize() // as development does it
      await source.runMigrations()
    },
    publish: (name, title) =>
      source.transaction(async (tx) => {
        const author = await tx.save(Author, { name })
        await tx.save(Book, { author, title })
      }),
    async rename(title, to) {
      await books.update({ title }, { title: to })
    },
    async remove(title) {
      await books.delete({ title })
    },
    titles: async () => (await books.find()).map((b) => b.title),
    sell: (title) =>
      source.transaction(async (tx) => {
        const book = await tx.findOneOrFail(Book, { where: { title }, lock: { mode: 'pessimistic_write' } })
        await tx.save(Book, { ...book, sold: book.sold + 1 })
      }),
    sold: async (title) => (await books.findOneByOrFail({ title })).sold,
    giveUp: (name) =>
      source.transaction(async (tx) => {
        await tx.insert(Author, { name })
        throw new Error('enough')
      }),
    nested: (name, inner) =>
      source.transaction(async (tx) => {
        await tx.insert(Author, { name })
        await tx
          .transaction((nested) => nested.insert(Author, [{ name: inner }, { name }]))
          .catch((error: unknown) => {
            if (codeIn(error) !== '23505') throw error
          })
      }),
    authors: async () => (await source.getRepository(Author).find()).map((a) => a.name),
    close: () => source.destroy(),
  }
})
