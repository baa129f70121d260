import { integer, pgTable, serial, text } from 'drizzle-orm/pg-core'

export const authors = pgTable('authors', { id: serial().primaryKey(), name: text().notNull().unique() })
export const books = pgTable('books', {
  id: integer().primaryKey().generatedAlwaysAsIdentity(),
  authorId: integer('author_id')
    .notNull()
    .references(() => authors.id, { onDelete: 'cascade' }),
  title: text().notNull(),
  sold: integer().notNull().default(0),
})
