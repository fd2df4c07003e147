"""The two functions that are measured. Hydra runs this file as it is; the other servers call it.

What `page` needs is imported there: `hello` is to cost what a call does that needs nothing, in time and in memory.
"""

from time import sleep


def hello(args):
    """Greets: what a call costs that does nothing."""
    return {"message": f"Hello, {args.get('name', 'world')}!"}


def page(args):
    """Builds a table of the items and its digest."""
    from hashlib import sha256
    from html import escape

    rows = [
        f"<tr><td>{escape(item['name'])}</td><td>{item['price']:.2f}</td><td>{item['count']}</td><td>{escape(item['note'])}</td></tr>"
        for item in args["items"]
    ]
    html = f"<h1>{escape(args['title'])}</h1><table>{''.join(rows)}</table>"
    return {"rows": len(rows), "sha256": sha256(html.encode()).hexdigest(), "html": html}


def hold(args):
    """The page, or a greeting without items, after so many seconds: many such calls at once need many instances."""
    if args.get("hold"):
        sleep(args["hold"])
    return page(args) if "items" in args else hello(args)
