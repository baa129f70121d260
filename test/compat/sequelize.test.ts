import { DataTypes, Sequelize } from 'sequelize'
import { codeIn } from './harness.ts'
import { orm } from './orm.ts'

/** Sequelize pools by itself and makes its clients from options of its own, so ours are given to each. */
orm('sequelize', ({ pg, options }) => {
  class Client extends pg.Client {
    constructor(theirs: object) {
      super({ ...theirs, ...options })
    }
  }
  const sequelize = new Sequelize({
    dialect: 'postgres',
    dialectModule: { ...pg, Client },
    logging: false,
    pool: { max: 6 },
    define: { timestamps: false },
  })
  const Author = sequelize.define('author', { name: { type: DataTypes.TEXT, allowNull: false, unique: true } })
  const Book = sequelize.define('book', {
    title: { type: DataTypes.TEXT, allowNull: false },
    sold: { type: DataTypes.INTEGER, allowNull: false, defaultValue: 0 },
  })
  Book.belongsTo(Author, { foreignKey: { name: 'author_id', allowNull: false }, onDelete: 'CASCADE' })
  return {
    async migrate() {
      await sequelize.sync()
    },
    publish: (name, title) =>
      sequelize.transaction(async (transaction) => {
        const author = await Author.create({ name }, { transaction })
        await Book.create({ author_id: author.get('id'), title }, { transaction })
      }),
    async rename(title, to) {
      await Book.update({ title: to }, { where: { title } })
    },
    async remove(title) {
      await Book.destroy({ where: { title } })
    },
    titles: async () => (await Book.findAll()).map((b) => b.get('title') as string),
    sell: (title) =>
      sequelize.transaction(async (transaction) => {
        const book = await Book.findOne({ where: { title }, lock: true, transaction, rejectOnEmpty: true })
        await book.update({ sold: (book.get('sold') as number) + 1 }, { transaction })
      }),
    sold: async (title) => (await Book.findOne({ where: { title }, rejectOnEmpty: true })).get('sold') as number,
    giveUp: (name) =>
      sequelize.transaction(async (transaction) => {
        await Author.create({ name }, { transaction })
        throw new Error('enough')
      }),
    nested: (name, inner) =>
      sequelize.transaction(async (outer) => {
        await Author.create({ name }, { transaction: outer })
        await sequelize
          .transaction({ transaction: outer }, (transaction) =>
            Author.bulkCreate([{ name: inner }, { name }], { transaction }),
          )
          .catch((error: unknown) => {
            if (codeIn(error) !== '23505') throw error
          })
      }),
    authors: async () => (await Author.findAll()).map((a) => a.get('name') as string),
    close: () => sequelize.close(),
  }
})
