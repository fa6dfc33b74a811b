"""How fast are layers, environments and training, beside what people would use otherwise?"""
