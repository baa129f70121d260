/**
 * GraphQL mutations and queries as postgraphile's middleware runs them, in its transactions with the role's
 * settings.
 */
import { expect } from 'chai'
import { graphql } from 'graphql'
import { createPostGraphileSchema, withPostGraphileContext } from 'postgraphile'
import { compat } from './harness.ts'

compat('postgraphile', async (db) => {
  await db.pool.query(`CREATE TABLE people (id serial PRIMARY KEY, name text NOT NULL UNIQUE, born int);
    CREATE FUNCTION age(p people, year int) RETURNS int LANGUAGE sql STABLE AS 'SELECT year - p.born'`)
  const schema = await createPostGraphileSchema(db.pool, 'public')
  const ask = async (source: string): Promise<Record<string, any>> => {
    const { data, errors } = (await withPostGraphileContext(
      { pgPool: db.pool, pgSettings: { 'jwt.claims.user': '1' } },
      async (contextValue) => graphql(schema, source, null, contextValue),
    )) as { data?: Record<string, any>; errors?: readonly { originalError?: unknown }[] }
    if (errors?.[0]) throw errors[0].originalError ?? errors[0]
    return data ?? {}
  }
  const create = (name: string, born = 1900) =>
    ask(`mutation { createPerson(input: { person: { name: "${name}", born: ${born} } }) { person { id name } } }`)
  const {
    createPerson: { person },
  } = await create('Ann', 1950)
  expect(person.name).to.equal('Ann')
  await ask(`mutation { updatePersonByName(input: { name: "Ann", personPatch: { born: 1960 } }) { person { born } } }`)
  expect((await ask(`{ personByName(name: "Ann") { born } }`)).personByName.born).to.equal(1960)
  expect(
    await create('Ann').then(
      () => '',
      (e: Error & { code?: string }) => e.code,
    ),
  ).to.equal('23505')
  await create('Bob')
  await ask(`mutation { deletePersonByName(input: { name: "Bob" }) { person { id } } }`)

  const created = await db.storm(3, 3000, (n) => create(`person ${n}`))
  const all = await db.again(() => ask('{ allPeople { totalCount } }'))
  expect(all?.allPeople.totalCount).to.be.within(created + 1, created + 1 + db.unknown())
})
