// Loaded into every Node process of a session by NODE_OPTIONS. Node before 24
// reads no proxy variable, and Node 24 misses clients that bring an agent of
// their own. Nothing here may throw, print, or keep a process alive, and it
// stays in the syntax of Node 10: every version that starts will load it.
'use strict'
;(function () {
  const env = process.env
  const mark = Symbol.for('standin.preload')
  if (global[mark]) return
  global[mark] = true

  const http = require('http')
  const https = require('https')
  const net = require('net')
  const tls = require('tls')

  function parseProxy (text) {
    try {
      const url = new URL(text)
      if (url.protocol !== 'http:') return null
      const user = decodeURIComponent(url.username) + ':' + decodeURIComponent(url.password)
      return {
        host: url.hostname.replace(/^\[|\]$/g, ''),
        port: Number(url.port) || 80,
        auth: user === ':' ? '' : 'Basic ' + Buffer.from(user).toString('base64')
      }
    } catch (e) {
      return null
    }
  }
  const secure = parseProxy(env.HTTPS_PROXY || env.https_proxy)
  const plain = parseProxy(env.http_proxy || env.HTTP_PROXY)
  const direct = (env.NO_PROXY || env.no_proxy || '').toLowerCase().split(/[\s,]+/).filter(Boolean)

  // proxyFor returns the proxy that a request has to take, or null.
  function proxyFor (protocol, hostname, port) {
    const proxy = protocol === 'https:' ? secure : protocol === 'http:' ? plain : null
    const host = String(hostname || 'localhost').toLowerCase().replace(/^\[|\]$/g, '')
    if (!proxy || (host === proxy.host && Number(port) === proxy.port)) return null
    for (const entry of direct) {
      const name = entry.replace(/:\d+$/, '').replace(/^\[|\]$/g, '').replace(/^\*?\./, '')
      if (name === '*' || entry === host || (name && (host === name || host.endsWith('.' + name)))) return null
    }
    return proxy
  }

  function authority (host, port) {
    return (net.isIPv6(host) ? '[' + host + ']' : host) + ':' + port
  }

  // tunnel opens a connection to host by CONNECT.
  function tunnel (proxy, host, port, timeout, done) {
    const socket = net.connect(proxy.port, proxy.host).setNoDelay(true)
    const target = authority(String(host).replace(/^\[|\]$/g, ''), port)
    let head = Buffer.alloc(0)
    let timer
    function end (error) {
      if (!done) return
      const callback = done
      done = null
      clearTimeout(timer)
      socket.removeListener('readable', read)
      socket.removeListener('error', end)
      socket.removeListener('close', closed)
      if (!error) return callback(null, socket)
      socket.on('error', function () {})
      socket.destroy()
      callback(error)
    }
    function fail (code, text) {
      end(Object.assign(new Error('proxy: ' + text + ' (CONNECT ' + target + ')'), { code: code }))
    }
    function closed () { fail('ECONNRESET', 'connection closed') }
    function read () {
      for (let chunk; done && (chunk = socket.read()) !== null;) {
        head = Buffer.concat([head, chunk])
        const length = head.indexOf('\r\n\r\n')
        if (length < 0 && head.length < 65536) continue
        const status = /^HTTP\/1\.[01] (\d{3})/.exec(head.toString('latin1', 0, 64))
        if (length < 0 || !status) fail('ECONNRESET', 'malformed answer')
        else if (status[1] !== '200') fail('ECONNREFUSED', 'answered ' + status[1])
        else {
          if (head.length > length + 4) socket.unshift(head.slice(length + 4))
          end(null)
        }
      }
    }
    socket.on('readable', read)
    socket.on('error', end)
    socket.on('close', closed)
    if (timeout > 0) timer = setTimeout(fail, timeout, 'ETIMEDOUT', 'timed out')
    socket.write('CONNECT ' + target + ' HTTP/1.1\r\nHost: ' + target + '\r\n' +
      (proxy.auth ? 'Proxy-Authorization: ' + proxy.auth + '\r\n' : '') + '\r\n')
  }

  // Agents meet in createSocket. Those that are proxied already have a
  // createSocket of their own (agent-base, so npm) or the proxyEnv of Node 24.
  const createSocket = http.Agent.prototype.createSocket
  const createConnection = http.Agent.prototype.createConnection
  const viaProxy = Symbol('standin.proxy')
  const ours = new WeakSet()

  function patched (req, given, callback) {
    const agent = this
    // Given again for the next request in the queue, they name a spent socket.
    const options = Object.assign({}, given)
    delete options[viaProxy]
    if (ours.has(options.socket)) delete options.socket
    const own = agent.options || {}
    const protocol = agent instanceof https.Agent || agent.protocol === 'https:' ? 'https:' : 'http:'
    const host = options.host || options.hostname
    const port = options.port || agent.defaultPort || (protocol === 'https:' ? 443 : 80)
    const foreign = agent.createSocket !== patched || own.proxyEnv || own.socketPath || options.socketPath ||
      options.socket || Object.prototype.hasOwnProperty.call(agent, 'createConnection')
    const proxy = foreign ? null : proxyFor(protocol, host, port)
    if (!proxy) return createSocket.call(agent, req, options, callback)
    if (protocol === 'http:') {
      rewrite(req, proxy, host || 'localhost', port)
      options[viaProxy] = proxy
      return createSocket.call(agent, req, options, callback)
    }
    const free = reserve(agent, agent.getName(options), options)
    tunnel(proxy, host || 'localhost', port, options.timeout || own.timeout, function (error, socket) {
      free(error)
      if (error) return callback(error)
      ours.add(socket)
      options.socket = socket
      createSocket.call(agent, req, options, callback)
    })
  }

  // reserve counts a tunnel among the agent's sockets while it is being made:
  // or an agent of ten sockets would open a thousand at once.
  function reserve (agent, name, options) {
    const sockets = agent.sockets[name] || (agent.sockets[name] = [])
    const place = new net.Socket()
    sockets.push(place)
    agent.totalSocketCount++
    return function (error) {
      const now = agent.sockets[name]
      const index = now ? now.indexOf(place) : -1
      if (index < 0) return
      now.splice(index, 1)
      agent.totalSocketCount--
      if (!error) return
      if (now.length === 0) delete agent.sockets[name]
      // No socket will close, so nothing else would go on with the queue.
      const queue = agent.requests[name]
      const next = queue && queue.shift()
      if (queue && queue.length === 0) delete agent.requests[name]
      if (next) agent.addRequest(next, options)
    }
  }

  if (createSocket) {
    http.Agent.prototype.createSocket = patched
    http.Agent.prototype.createConnection = function (options) {
      const proxy = options && options[viaProxy]
      if (!proxy) return createConnection.apply(this, arguments)
      return net.connect({ host: proxy.host, port: proxy.port, noDelay: true, keepAlive: options.keepAlive })
    }
  }

  // rewrite turns a plain request into the absolute form for a proxy.
  function rewrite (req, proxy, host, port) {
    if (!req || typeof req.path !== 'string' || req.path[0] !== '/') return
    const origin = 'http://' + (port === 80 || port === '80' ? authority(host, 80).slice(0, -3) : authority(host, port))
    if (req._header) {
      req._header = req._header.replace(/^(\S+) (\/\S*) /, '$1 ' + origin + '$2 ')
      if (proxy.auth) req._header = req._header.replace('\r\n', '\r\nProxy-Authorization: ' + proxy.auth + '\r\n')
    } else if (proxy.auth) {
      req.setHeader('Proxy-Authorization', proxy.auth)
    }
    req.path = origin + req.path
  }

  // fetch has no agent, but a dispatcher that all copies of undici share. The
  // one that Node makes itself is replaced, at the first request; one that a
  // program set, or that reads the environment (Node 24), stays.
  const key = Symbol.for('undici.globalDispatcher.1')
  const fetch = global.fetch
  if (typeof fetch !== 'function') return

  function connect (options, callback) {
    const host = options.hostname
    const port = options.port || 443
    tunnel(proxyFor('https:', host, port) || secure, host, port, 30000, function (error, socket) {
      if (error) return callback(error)
      const wanted = { socket: socket, host: host, ALPNProtocols: ['http/1.1'] }
      if (!net.isIP(host)) wanted.servername = options.servername || host
      const session = tls.connect(wanted)
      session.once('secureConnect', function () {
        session.removeListener('error', callback)
        callback(null, session)
      })
      session.once('error', callback)
    })
  }

  function install () {
    void global.Headers // loads undici
    const current = global[key]
    if (!current || !current.constructor || current.constructor.name !== 'Agent' || current[mark]) return
    const dispatcher = new current.constructor({ connect: connect })
    const dispatch = dispatcher.dispatch
    dispatcher[mark] = true
    dispatcher.dispatch = function (options, handler) {
      const url = new URL(String(options.origin))
      const proxy = proxyFor(url.protocol, url.hostname, url.port || (url.protocol === 'https:' ? 443 : 80))
      if (!proxy) return current.dispatch(options, handler)
      if (url.protocol === 'https:') return dispatch.call(dispatcher, options, handler)
      return current.dispatch(absolute(options, url, proxy), handler)
    }
    global[key] = dispatcher
  }

  function absolute (options, url, proxy) {
    const extra = proxy.auth ? { host: url.host, 'proxy-authorization': proxy.auth } : { host: url.host }
    let headers = options.headers
    if (Array.isArray(headers)) {
      headers = headers.slice()
      for (const name in extra) headers.push(name, extra[name])
    } else {
      headers = Object.assign({}, headers, extra)
    }
    const origin = 'http://' + authority(proxy.host, proxy.port)
    return Object.assign({}, options, { origin: origin, path: url.origin + options.path, headers: headers })
  }

  Object.defineProperty(global, 'fetch', {
    configurable: true,
    enumerable: true,
    writable: true,
    value: function (input, init) {
      try { install() } catch (e) {}
      return fetch(input, init)
    }
  })
})()
