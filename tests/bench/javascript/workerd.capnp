# One worker; the bench gives its address with --socket-addr.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [(name = "main", worker = .work)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);

const work :Workerd.Worker = (
  modules = [
    (name = "workerd.mjs", esModule = embed "workerd.mjs"),
    (name = "fetch.mjs", esModule = embed "fetch.mjs"),
    (name = "work.js", commonJsModule = embed "work.js"),
  ],
  compatibilityDate = "2025-09-01",
  compatibilityFlags = ["nodejs_compat"],
);
