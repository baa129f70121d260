import { open } from './knex-library.ts'
import { orm } from './orm.ts'

orm('knex', open)
