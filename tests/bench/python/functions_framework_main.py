"""The target of Google's functions-framework for Python, which makes JSON of a dict itself."""

import work


def handle(request):
    return getattr(work, request.path[1:])(request.get_json())
