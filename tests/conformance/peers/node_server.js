// A server made of node-coap, as its documentation shows one, with the resources that the conformance tests ask for.
//     NODE_PATH=... node tests/conformance/peers/node_server.js PORT
const coap = require('coap')

const LARGE = Buffer.from(Array.from({length: 400}, (_, n) => String(n).padStart(7, '0') + '\n').join(''))
const bodies = {'/test': 'node', '/seg1/seg2/seg3': 'segments', '/large-update': LARGE, '/large': LARGE}
let count = 0
let state = 0

function text (response, code, payload) {
  response.setOption('Content-Format', 'text/plain')
  response.code = code
  response.end(payload)
}

function done (response, code) {
  response.code = code
  response.end()
}

const LINKS = '</test>;rt="test",</large>;rt="block long";sz=3200,</large-update>;rt="block",</obs>;obs;if="changes",' +
  '</separate>;if="changes.slow",</query>'

const server = coap.createServer((request, response) => {
  response.on('error', () => {}) // an answer that is not acknowledged must not end the server
  const [path, query] = request.url.split('?')
  const method = request.method
  if (path === '/.well-known/core' && method === 'GET') {
    response.setOption('Content-Format', 'application/link-format')
    return response.end(LINKS)
  }
  if (path === '/obs' && method === 'GET') {
    const tell = () => response.write(String(state))
    response.setOption('Content-Format', 'text/plain')
    if (request.headers.Observe !== 0) return response.end(String(state))
    tell()
    const timer = setInterval(tell, 2000)
    response.on('error', () => clearInterval(timer)) // the client does not acknowledge any more
    return response.on('finish', () => clearInterval(timer))
  }
  if (path === '/separate' && method === 'GET') return setTimeout(() => text(response, '2.05', 'slow'), 3000)
  if (path === '/query' && method === 'GET') return text(response, '2.05', query || 'none')
  if (path === '/counter') {
    if (method === 'POST') return text(response, '2.04', String(++count))
    if (method === 'GET') return text(response, '2.05', String(count))
  }
  if (path === '/fetch' && method === 'FETCH') return text(response, '2.05', request.payload)
  if (path === '/large-post' && method === 'POST') return text(response, '2.04', LARGE)
  if (path in bodies) {
    if (method === 'GET') return text(response, '2.05', bodies[path])
    if (method === 'PUT') {
      bodies[path] = request.payload
      return done(response, '2.04')
    }
    if (path === '/test' && method === 'POST') return done(response, '2.01')
    if (path === '/test' && method === 'DELETE') return done(response, '2.02')
    return done(response, '4.05')
  }
  done(response, '4.04')
})
setInterval(() => { state += 1 }, 2000)
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('ready'))
