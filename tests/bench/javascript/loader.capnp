# One worker that makes a new isolate for each request; the bench gives its address with --socket-addr.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [(name = "main", worker = .loader)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);

const loader :Workerd.Worker = (
  modules = [
    (name = "loader.mjs", esModule = embed "loader.mjs"),
    (name = "workerd.mjs", text = embed "workerd.mjs"),
    (name = "fetch.mjs", text = embed "fetch.mjs"),
    (name = "work.js", text = embed "work.js"),
  ],
  bindings = [(name = "loader", workerLoader = ())],
  compatibilityDate = "2025-09-01",
  compatibilityFlags = ["nodejs_compat", "experimental"],
);
