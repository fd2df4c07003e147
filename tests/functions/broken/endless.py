print("loads")
while True:
    pass
