// Package node runs one host's daemon: it keeps the replicas of cells, makes
// them known to others, answers lookups and calls, and is steered over HTTP on
// a Unix socket.
//
// The control API speaks HTTP/1.1 and JSON over home.Socket(). Every request
// and every answer carries "Cell-Protocol: 1"; another number ends with exit
// code 7 on either side. Errors have a status outside 2xx and the body
// {"error":{"code","message","hint","exit"}}. What may take long or goes on is
// a stream of JSON objects, one a line, whose last line may hold "error":
//
//	GET  /v1/status                    Status
//	POST /v1/run      {"dir"}          Progress …, the last with "replica" or "error"
//	POST /v1/publish  {"dir","version"} Published
//	POST /v1/grow     {"ref","mirrors"} Progress …, the last with "replica" or "error"
//	GET  /v1/seeds    ?ref=            Found …: who hands out the source
//	GET  /v1/ps                        {"replicas":[Replica]}
//	POST /v1/kill     {"replica"}      ends the process as a crash would
//	POST /v1/stop     {"cell"}         Scaled: ends the cell on all hosts
//	GET  /v1/cells                     {"cells":[CellStatus]}: how they fare on all hosts
//	POST /v1/scale    {"cell","min","max","reset"} Scaled: how many replicas there are to be
//	POST /v1/drain    {"target","undo"} Progress …: lets go of a replica, a cell or everything here
//	GET  /v1/logs     ?cell=&follow=   text lines
//	POST /v1/connect                   101, then frames with full targets (Upgrade: cell-frame/1)
//	GET  /v1/events   ?after=&follow=  journal.Event …
//	GET  /v1/lookup   ?ref=            Found …
//	GET  /v1/peers                     {"peers":[Peer]}
//	POST /v1/ping     {"target","count"} Pong …
//	POST /v1/reload                    reads settings and certificates again
//	POST /v1/down                      answers, then drains and ends
//	GET  /v1/doctor                    {"checks":[Check]}
package node
